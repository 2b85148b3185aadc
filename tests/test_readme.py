"""Facts in README.md and docs/: responses are correct, all endpoints and figures are there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from inference_server.api.app import OPERATIONS
from inference_server.demo import SAMPLE
from tests.readme import DOCS, README, ROOT, examples, pages, parsed

TEXT = "\n".join(page.read_text() for page in pages())
EXAMPLES = [example for page in pages() for example in examples(page.read_text())]
ROBOFLOW = examples((DOCS / "contracts" / "roboflow.md").read_text())


def masks_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all RLE masks in a response."""
    if isinstance(value, dict) and "counts" in value:
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from masks_in(item)


def shown_response(path: str, sends: str) -> Any:
    """Return the response, as shown on the page, of the example with this path and body text."""
    (found,) = (e for e in ROBOFLOW if e.kind == "json" and path in e.code and sends in e.code)
    assert found.output
    return parsed(found.output)


def test_shown_responses_match_the_image() -> None:
    """The image has two red circles, no blue star, and one green cross."""
    red, blue = shown_response("/sam3/concept_segment", "red circle")["prompt_results"]
    assert (len(red["predictions"]), len(blue["predictions"])) == (2, 0)
    (by_word,) = masks_in(shown_response("/sam3/concept_segment", "green cross"))
    (by_click,) = masks_in(shown_response("/sam3/visual_segment", '"x": 548, "y": 255'))
    r, g, b = np.moveaxis(np.asarray(Image.open(SAMPLE), np.int16), 2, 0)
    truth = coco.encode(np.asfortranarray(g > np.maximum(r, b) + 40, np.uint8))
    assert coco.iou([by_click], [truth], [False])[0, 0] > 0.85
    assert coco.iou([by_word], [truth], [False])[0, 0] > 0.8


def test_bash_and_python_examples_exist() -> None:
    assert {e.language for e in EXAMPLES} >= {"bash", "python"}
    python = "".join(e.code for e in EXAMPLES if e.language == "python")
    assert "from inference_sdk import" in python
    assert "import requests" in python


@pytest.mark.parametrize("path", sorted({operation.path for operation in OPERATIONS}))
def test_every_endpoint_is_documented(path: str) -> None:
    assert f"{path}`" in TEXT


@pytest.mark.parametrize(
    ("row", "benchmark", "goal"),
    [
        ("click on a cached 1080p", "click", "1920 x 1080, polygon: speed-up over predict"),
        ("click on a cached 4K image", "click", "3840 x 2160, polygon: speed-up over predict"),
        ("8 clients", "clients", "8 clients: throughput relative to the reference"),
        ("64 boxes", "boxes", "64 boxes: speed-up over batch"),
        ("automatic masks of", "automatic", "1920 x 1080, 32 x 32 points: speed-up"),
        ("click on a new image", "cold", "hiera_tiny, bfloat16: speed-up over the reference"),
        ("its time relative to", "cold", "hiera_tiny, float32: relative to the bare model"),
        ("its time relative to", "cold", "hiera_tiny, bfloat16: relative to the bare model"),
        ("100 masks at 4032 x 4032", "masks", "100 at 4032 x 4032: polygons, speed-up"),
        (
            "click on a cached 1080p",
            "click_bfloat16",
            "1920 x 1080, polygon: speed-up over predict",
        ),
        (
            "click on a cached 4K image",
            "click_bfloat16",
            "3840 x 2160, polygon: speed-up over predict",
        ),
        ("8 clients", "clients_bfloat16", "8 clients: throughput relative to the reference"),
        ("64 boxes", "boxes_bfloat16", "64 boxes: speed-up over batch"),
    ],
)
def test_performance_table_matches_benchmark_results(row: str, benchmark: str, goal: str) -> None:
    """The ratios in README.md are those in benchmarks/results."""
    report = json.loads((ROOT / "benchmarks" / "results" / f"{benchmark}.json").read_text())
    (value,) = (found["value"] for found in report["goals"] if found["what"] == goal)
    (line,) = (line for line in README.read_text().splitlines() if line.startswith(f"| {row}"))
    assert f"| {value:.2g}x |" in line or f"| {value:.1f}x |" in line
    assert line.endswith(f"| `{benchmark.removesuffix('_bfloat16')}` |")
