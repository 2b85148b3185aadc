"""X-AnyLabeling's own client, unmodified, against a running server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inference_server.demo.scenes import SceneObject
from tests.api.pictures import Picture, Plane, iou
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, TIMEOUT, RunningHere
from tests.e2e.vendors import environments
from tests.environment import clean_environment

SAM3, SAM2 = "segment_anything_3", "segment_anything_2"

Program = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter with the program."""
    return environments.environment("x_anylabeling")


@pytest.fixture
def program(python: Path, server: RunningHere, picture: Picture, tmp_path: Path) -> Program:
    """Runs the client: calls in, what the program would show out."""
    image = tmp_path / "picture.png"
    image.write_bytes(picture.data)

    def run(*calls: dict[str, Any], key: str | None = ALICE, url: str = "") -> Any:
        rows = {"server_url": url or f"{server.url}/x-anylabeling", "api_key": key}
        settings = tmp_path / "settings.yaml"
        settings.write_text(json.dumps({"remote_server_settings": rows}))  # JSON is YAML
        done = subprocess.run(
            [python, environments.HERE / "x_anylabeling.py", settings, image],
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env={**clean_environment(), "HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def mark(item: SceneObject, kind: str = "point", label: int = 1) -> dict[str, Any]:
    where = item.click() if kind == "point" else item.box
    return {"type": kind, "data": list(map(int, where)), "label": label}


def planes(answer: dict[str, Any], size: tuple[int, int]) -> list[Plane]:
    """Draw the shapes; those of a group are one object."""
    drawn: dict[int, Plane] = {}
    for index, shape in enumerate(answer["shapes"]):
        assert shape["shape_type"] == "polygon"
        canvas = np.zeros(size, np.uint8)
        cv2.fillPoly(canvas, [np.array(shape["points"], np.int32)], [1])
        key = shape["group_id"] or -index
        drawn[key] = drawn.get(key, np.zeros(size, np.bool_)) | (canvas > 0)
    return list(drawn.values())


def test_words_exemplars_and_clicks(program: Program, picture: Picture) -> None:
    circle, square, blue = map(picture.one, ("red circle", "blue square", "blue circle"))
    words, nothing, exemplar, click, box, encoded = program(
        {"model": SAM3, "text": "red circle, blue square."},
        {"model": SAM3, "text": "green star"},
        {"model": SAM3, "marks": [mark(circle, "rectangle"), mark(blue, "rectangle", 0)]},
        {"model": SAM2, "marks": [mark(square), mark(circle, label=0)]},
        {"model": SAM2, "marks": [mark(square, "rectangle")]},
        {"model": SAM2, "marks": [mark(square)], "by_path": False},
    )
    for answer in (words, nothing, exemplar, click, box, encoded):
        assert answer["models"] == [SAM3, SAM2]
        assert answer["told"] == []
        assert not answer["description"]
        assert answer["replace"] is False  # nothing on the image is removed
    assert [words["batch"], click["batch"]] == ["text_prompt", None]
    truth = [*picture.matching("red circle"), *picture.matching("blue square")]
    assert_same_objects(planes(words, picture.size), truth)
    assert {shape["label"] for shape in words["shapes"]} == {"red circle", "blue square"}
    assert nothing["shapes"] == []
    assert_same_objects(planes(exemplar, picture.size), picture.matching("red circle"))
    for answer in (click, box, encoded):
        (found,) = planes(answer, picture.size)
        assert iou(found, square.mask) > 0.8
        assert {shape["label"] for shape in answer["shapes"]} == {"AUTOLABEL_OBJECT"}


def test_a_second_click_costs_no_encode(program: Program, server: RunningHere) -> None:
    """The program sends the file with each click."""
    item = {"type": "point", "data": [40, 40], "label": 1}
    program({"model": SAM2, "marks": [item]})
    before = server.metric("inference_embedding_cache_misses_total")
    answers = program(*[{"model": SAM2, "marks": [item, {**item, "data": [90, 60]}]}] * 2)
    assert answers[0]["shapes"] == answers[1]["shapes"] != []
    after = server.metric("inference_embedding_cache_misses_total")
    assert after == before


def test_a_failure_is_shown_and_removes_nothing(program: Program) -> None:
    ask = {"model": SAM3, "text": "red circle", "marks": [{"type": "point", "data": [5, 5]}]}
    (refused,) = program(ask)
    assert "422" in refused["told"][0]
    (wrong,) = program(ask, key="wrong")
    assert wrong["models"] == []
    assert "401" in wrong["told"][0]
    assert refused["shapes"] == wrong["shapes"] == []
    assert refused["replace"] is False
