"""The README: its examples run as printed, and what it lists is all there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from inference_server.app import OPERATIONS
from inference_server.demo import SAMPLE
from tests.readme import KEY, MORE, README, ROOT, Example, examples, parsed, run, serving

TEXT = README.read_text()
EXAMPLES = examples(TEXT)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
LEAST_IOU = 0.98


@pytest.fixture(scope="module")
def outputs() -> list[str | AssertionError]:
    """What each example prints, run in their order: some go on where another left off."""
    with serving(INFERENCE_API_KEYS=KEY) as (address, _):
        results: list[str | AssertionError] = []
        for example in EXAMPLES:
            try:
                results.append(run(example, address))
            except AssertionError as error:
                results.append(error)
    return results


@pytest.mark.parametrize("index", range(len(EXAMPLES)), ids=[e.title for e in EXAMPLES])
def test_an_example_prints_what_is_printed(index: int, outputs: list[str | AssertionError]) -> None:
    example, output = EXAMPLES[index], outputs[index]
    if isinstance(output, AssertionError):
        raise output
    if example.kind == "json":
        check(parsed(example.output), json.loads(output))
    else:
        check_text(example.output, output)


def check(printed: Any, real: Any, field: str = "") -> None:
    """Structure and counts are the same, scores are close, whole masks overlap."""
    if isinstance(printed, dict):
        assert printed.keys() == real.keys(), field
        if "counts" in printed:
            assert printed["size"] == real["size"]
            assert coco.iou([printed], [real], [False])[0, 0] >= LEAST_IOU
            return
        for key, value in printed.items():
            check(value, real[key], key)
    elif field == "masks":  # polygons: they start somewhere else if one pixel differs
        assert real
        assert all(len(point) == 2 for polygon in real for point in polygon)
    elif isinstance(printed, list):
        if printed and printed[-1] == MORE:
            assert len(real) >= len(printed), field
            printed = printed[:-1]
        else:
            assert len(real) == len(printed), field
        for one, other in zip(printed, real, strict=False):
            check(one, other, field)
    elif field == "time":
        assert real > 0
    elif field in ("confidence", "score"):
        assert real == pytest.approx(printed, abs=0.1)
    else:
        assert real == printed, field


def check_text(printed: str, real: str) -> None:
    """The words are the same, and the numbers close."""
    assert NUMBER.sub("0", printed) == NUMBER.sub("0", real)
    numbers = [float(number) for number in NUMBER.findall(real)]
    assert numbers == pytest.approx([float(n) for n in NUMBER.findall(printed)], rel=0.02, abs=0.1)


def masks_in(value: Any) -> Iterator[dict[str, Any]]:
    """The run lengths in an answer."""
    if isinstance(value, dict) and "counts" in value:
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from masks_in(item)


def printed_answer(path: str, sends: str) -> Any:
    """The printed answer of the example that posts to a path and sends a text."""
    (found,) = (e for e in EXAMPLES if e.kind == "json" and path in e.code and sends in e.code)
    return parsed(found.output)


def test_the_printed_answers_are_right() -> None:
    """The picture has two red circles, no blue star, and one green cross."""
    red, blue = printed_answer("/sam3/concept_segment", "red circle")["prompt_results"]
    assert (len(red["predictions"]), len(blue["predictions"])) == (2, 0)
    (by_word,) = masks_in(printed_answer("/sam3/concept_segment", "green cross"))
    (by_click,) = masks_in(printed_answer("/sam3/visual_segment", '"x": 548, "y": 255'))
    r, g, b = np.moveaxis(np.asarray(Image.open(SAMPLE), np.int16), 2, 0)
    truth = coco.encode(np.asfortranarray(g > np.maximum(r, b) + 40, np.uint8))
    assert coco.iou([by_click], [truth], [False])[0, 0] > 0.9
    assert coco.iou([by_word], [truth], [False])[0, 0] > 0.8


def test_every_language_is_shown() -> None:
    assert {e.language for e in EXAMPLES} == {"bash", "python"}
    python = "".join(e.code for e in EXAMPLES if e.language == "python")
    assert "from inference_sdk import" in python
    assert "import requests" in python


@pytest.mark.parametrize("path", sorted({operation.path for operation in OPERATIONS}))
def test_every_endpoint_is_mentioned(path: str) -> None:
    assert f"{path}`" in TEXT


def test_links_lead_somewhere() -> None:
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in t]
    headings = {
        "#" + re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    assert targets
    for target in targets:
        assert target in headings if target.startswith("#") else (ROOT / target).exists(), target


def test_masks_that_differ_are_noticed() -> None:
    """The comparison itself: it lets a pixel pass, and nothing that matters."""
    plane = np.zeros((40, 40), np.uint8, order="F")
    plane[5:35, 5:35] = 1
    near, far = plane.copy(order="F"), plane.copy(order="F")
    near[5, 5], far[5:10, 5:35] = 0, 0

    def answer(of: Any, *, confidence: float = 0.9) -> dict[str, Any]:
        encoded = coco.encode(of)
        rle = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        return {"predictions": [{"confidence": confidence, "masks": rle}], "time": 0.1}

    check(answer(plane), answer(near))
    check({"a": [[1, 2], MORE]}["a"], [[1, 2], [3, 4]])
    with pytest.raises(AssertionError):
        check(answer(plane), answer(far))
    with pytest.raises(AssertionError):
        check(answer(plane), answer(plane, confidence=0.5))
    with pytest.raises(AssertionError):
        check(answer(plane), {"predictions": [], "time": 0.1})
    check_text("red 0.91, 2 of 3\n", "red 0.9, 2 of 3\n")
    with pytest.raises(AssertionError):
        check_text("red 2\n", "red 3\n")


def test_an_example_is_code_with_its_output() -> None:
    text = "```bash\nmake\n```\n\n```bash\ncurl x\n```\nprints\n```json\n{}\n```\n"
    assert [(e.code, e.output) for e in examples(text)] == [("curl x\n", "{}\n")]
    (example,) = examples(text)
    assert isinstance(example, Example)
    assert text[slice(*example.span)] == "{}\n"
