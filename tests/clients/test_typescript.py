"""The generated TypeScript client: compiled, and run on Node against a server."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import cv2
import numpy as np
import pytest

from tests.api.pictures import Picture, assert_finds, center_box, iou, plane
from tests.api.rasters import geotiff
from tests.api.segmind.test_routes import mask_of, pixels
from tests.api.serving import ALICE, Running
from tests.clients.conftest import PAGE, PROGRAMS, Project, blocks, told
from tests.readme import check_text


@pytest.fixture(scope="module")
def answers(
    project: Project, server: Running, picture: Picture, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Responses to `calls.ts`, by kind of call."""
    item = picture.one("red circle")
    x, y = item.click()
    said = {
        "url": server.url,
        "key": ALICE,
        "image": picture.sent["value"],
        "raster": base64.b64encode(geotiff(picture.scene.image)).decode(),
        "click": {"x": x, "y": y},
        "box": center_box(item),
        "corners": [float(edge) for edge in picture.one("blue square").box],
    }
    told = tmp_path_factory.mktemp("calls") / "input.json"
    told.write_text(json.dumps(said))
    return json.loads(project.run("calls", str(told)))


def test_exactly_the_mistakes_do_not_compile(project: Project) -> None:
    marked = {
        ("mistakes.ts", number, int(found[1]))
        for number, line in enumerate((PROGRAMS / "mistakes.ts").read_text().splitlines(), 1)
        if (found := re.search(r"// (\d+)$", line))
    }
    assert len(marked) >= 15
    assert project.mistakes == marked


def test_concept_segment(answers: Any, picture: Picture, server: Running) -> None:
    found = answers["concept"]
    assert found["texts"] == ["red circle", "green star"]
    for predictions, text in zip(found["found"], found["texts"], strict=True):
        assert all(prediction["format"] == "rle" for prediction in predictions)
        assert_finds(predictions, picture.matching(text), picture.size)
    # The key is in a header, not in the URL, which would be logged.
    assert found["url"] == f"{server.url}/sam3/concept_segment"
    assert found["headers"] == ["content-type", "x-api-key"]


def test_visual_segment(answers: Any, picture: Picture) -> None:
    item = picture.one("red circle")
    predictions = answers["visual"]["predictions"]
    assert len(predictions) == 2
    for prediction in predictions:
        assert iou(plane(prediction, picture.size), item.mask) > 0.8
    with np.load(io.BytesIO(base64.b64decode(answers["visual"]["binary"]))) as arrays:
        masks = arrays["masks"].astype(bool)
    assert masks.shape == (2, *picture.size)
    assert all(iou(mask, item.mask) > 0.8 for mask in masks)


def test_embedding_and_ids(answers: Any, picture: Picture) -> None:
    (prediction,) = answers["by_id"]["predictions"]
    assert iou(plane(prediction, picture.size), picture.one("red circle").mask) > 0.8
    assert answers["by_id"]["cache"] == "hit"


def test_uploads(answers: Any, picture: Picture) -> None:
    boxes = [item.box for item in picture.scene.matching("red circle")]
    found = sorted(answers["uploads"]["boxes"])
    assert np.allclose(found, sorted(boxes), atol=8)
    raster = base64.b64decode(answers["uploads"]["raster"])
    ids = cv2.imdecode(np.frombuffer(raster, np.uint8), cv2.IMREAD_UNCHANGED)
    assert ids is not None
    assert iou(np.asarray(ids > 0), picture.one("blue square").mask) > 0.8


def test_pictures(answers: Any, picture: Picture) -> None:
    one, two = picture.matching("red circle")
    preview = mask_of(pixels(base64.b64decode(answers["pictures"]["preview"])))
    assert iou(preview, one | two) > 0.6
    masks = [mask_of(pixels(mask)) for mask in answers["pictures"]["masks"]]
    assert len(masks) == 2
    assert iou(masks[0] | masks[1], one | two) > 0.6
    masks = [pixels(mask) > 0 for mask in answers["space"]]
    assert len(masks) == 2
    assert iou(masks[0] | masks[1], one | two) > 0.6


def test_jobs(answers: Any, picture: Picture) -> None:
    circles = picture.matching("red circle")
    assert answers["jobs"]["status"] == "COMPLETED"
    (result,) = answers["jobs"]["output"]["prompt_results"]
    assert_finds(result["predictions"], circles, picture.size)
    shown = mask_of(pixels(base64.b64decode(answers["jobs"]["file"])))
    assert iou(shown, circles[0] | circles[1]) > 0.6


def test_errors_are_typed(answers: Any) -> None:
    errors = answers["errors"]
    assert errors["statuses"] == [422, 401, 401, 400]
    assert errors["loc"] == ["body", "image"]
    assert "wrong" in errors["message"]
    assert "image" in errors["error"]
    assert errors["thrown"]["detail"][0]["loc"] == ["body", "image"]


def test_system(answers: Any) -> None:
    assert answers["system"]["ready"] == "ok"
    assert {checkpoint["source"] for checkpoint in answers["system"]["checkpoints"]} == {"demo"}


@pytest.mark.parametrize("index", range(len(blocks("typescript"))))
def test_programs_of_the_page_print_the_shown_output(
    index: int, project: Project, server: Running
) -> None:
    _, output = blocks("typescript")[index]
    program = project.directory / f"page{index}.js"
    program.write_text(told(program.read_text(), server))
    assert output
    check_text(output, project.run(program.stem))


def test_the_page_shows_how_to_install() -> None:
    """The same steps as in the fixtures: install, build, and install the result."""
    mark = "<!-- tested by: tests/clients/test_typescript.py -->"
    commands = "npm ci --prefix clients/typescript\nnpm install ./clients/typescript\n"
    assert f"{mark}\n```bash\n{commands}```" in PAGE.read_text()
