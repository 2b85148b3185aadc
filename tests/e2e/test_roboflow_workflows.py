"""The SAM blocks of Roboflow Workflows, in a process of `inference`, send their work to the server.

The blocks are run one by one: Workflows' engine imports all blocks, whose packages take minutes to
install.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from tests.api.pictures import Picture, Plane, iou
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, RunningHere
from tests.e2e.forwarding import Forwarding, forwarding
from tests.e2e.vendors import environments
from tests.environment import clean_environment

WORDS = ("red circle", "blue square")


@pytest.fixture(scope="module")
def sent(server: RunningHere) -> Iterator[Forwarding]:
    """Forwards requests to the server, and keeps them."""
    with forwarding(server.url) as running:
        yield running


@pytest.fixture(scope="module")
def answers(
    sent: Forwarding, picture: Picture, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The detections of each block."""
    python = environments.environment("roboflow_workflows", with_own=True)
    directory = tmp_path_factory.mktemp("workflows")
    image = directory / "picture.png"
    image.write_bytes(picture.data)
    x, y = picture.one("blue square").click()
    program: list[str | Path] = [python, environments.HERE / "workflow_blocks.py"]
    done = subprocess.run(
        [*program, image, ALICE, f"{x:g}", f"{y:g}"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={
            **clean_environment(),
            "HOME": str(directory),
            "MODEL_CACHE_DIR": str(directory / "cache"),
            # docs/roboflow-workflows.md
            "WORKFLOWS_STEP_EXECUTION_MODE": "remote",
            "WORKFLOWS_REMOTE_API_TARGET": "self-hosted",
            "LOCAL_INFERENCE_API_URL": sent.url,
        },
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def masks(detections: list[dict[str, Any]], name: str, size: tuple[int, int]) -> list[Plane]:
    """Return the masks of the detections of a class."""
    return [
        np.asarray(coco.decode({"size": list(size), "counts": each["mask"].encode()}), bool)
        for each in detections
        if each["name"] == name
    ]


@pytest.mark.parametrize("block", ["sam3@v3", "sam3@v3 polygons", "sam3@v2", "sam3@v1"])
def test_words(answers: dict[str, Any], picture: Picture, block: str) -> None:
    for name in WORDS:
        found = masks(answers[block], name, picture.size)
        united = np.any(found, axis=0)
        assert iou(united, np.any(picture.matching(name), axis=0)) > 0.8
    assert {each["name"] for each in answers[block]} == set(WORDS)
    assert all(each["confidence"] >= 0.5 for each in answers[block])


def test_words_are_whole_objects(answers: dict[str, Any], picture: Picture) -> None:
    for name in WORDS:
        found = masks(answers["sam3@v3"], name, picture.size)
        assert_same_objects(found, picture.matching(name))


@pytest.mark.parametrize("block", ["sam3_interactive@v1 boxes", "segment_anything@v1"])
def test_boxes_of_detections(answers: dict[str, Any], picture: Picture, block: str) -> None:
    for name in WORDS:
        united = np.any(masks(answers[block], name, picture.size), axis=0)
        assert iou(united, np.any(picture.matching(name), axis=0)) > 0.8


def test_a_click(answers: dict[str, Any], picture: Picture) -> None:
    found = masks(answers["sam3_interactive@v1"], "foreground", picture.size)
    assert iou(np.any(found, axis=0), picture.one("blue square").mask) > 0.8


def test_the_work_was_done_here(answers: dict[str, Any], sent: Forwarding) -> None:
    assert set(sent.statuses) == {200}
    paths = [path.split("?")[0] for path in sent.paths]
    assert paths.count("/sam3/concept_segment") == 4
    assert paths.count("/sam3/visual_segment") == 2
    assert paths.count("/sam2/segment_image") == 1
    assert len(paths) == 7
