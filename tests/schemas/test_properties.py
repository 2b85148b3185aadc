"""Property tests of fields with JSON strings: any input is parsed or rejected with a message."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inference_server.api.samgeo.prompts import SamgeoPrompts
from inference_server.errors import RequestError
from schemas.common import Limits, validation_detail, validation_message
from schemas.samgeo import PredictRequest
from schemas.segmind import Sam3ImageRequest, SamV2ImageRequest
from tests.fuzz import fuzzed

numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([1e9, -1e9, 1e39, 0.5, -0.0])
trees = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)
rows = st.lists(st.lists(numbers, min_size=1, max_size=5), max_size=5)
# Valid JSON, almost valid JSON (`json` writes NaN), and arbitrary text.
texts = (rows | trees).map(json.dumps) | st.text(max_size=30) | st.just("[" * 5000)


def check(points: list[list[float]]) -> None:
    for point in points:
        assert len(point) == 2
        assert all(math.isfinite(value) and abs(value) <= 1e9 for value in point)


@fuzzed(150)
@given(texts | trees, texts | trees, texts)
def test_segmind_prompts(points: Any, labels: Any, boxes: Any) -> None:
    fields = {"image": "x", "text_prompt": "x", "boxes_input": boxes}
    try:
        read = Sam3ImageRequest.model_validate(
            {**fields, "points_input": points, "point_labels_input": labels}
        )
    except ValidationError as error:
        assert len(validation_message(validation_detail(error))) < 5000  # noqa: PT017
    else:
        check(read.points_input)
        assert set(read.labels) <= {0, 1}
        for box in read.boxes_input:
            assert len(box) == 4
            assert box[0] < box[2]
            assert box[1] < box[3]


@given(texts | trees, texts | trees)
def test_segmind_coordinates(one: Any, other: Any) -> None:
    try:
        read = SamV2ImageRequest.model_validate(
            {"image": "x", "prompt": "x", "coordinates": one, "remove_coordinates": other}
        )
    except ValidationError:
        return
    check(read.coordinates)
    check(read.remove_coordinates)


@fuzzed(150)
@given(
    st.none() | texts,
    st.none() | texts | st.lists(st.integers(0, 1), max_size=5).map(json.dumps),
    st.none() | texts,
    st.sampled_from(["sam2", "sam3"]),
)
def test_samgeo_prompts(
    points: str | None, labels: str | None, boxes: str | None, version: str
) -> None:
    form = PredictRequest(
        file=b"", point_coords=points, point_labels=labels, boxes=boxes, model_version=version
    )
    try:
        read = SamgeoPrompts.of(form, Limits())
    except RequestError as error:
        assert len(error.message) < 1000  # noqa: PT017
        return
    check(read.points.tolist())
    assert len(read.labels) == len(read.points)
    assert (read.boxes[:, :2] < read.boxes[:, 2:]).all()


@pytest.mark.parametrize("digits", [400, 5000, 1_000_000])
def test_huge_numbers(digits: int) -> None:
    text = f"[[{'9' * digits}, 1]]"
    with pytest.raises(ValidationError):
        Sam3ImageRequest.model_validate({"image": "x", "points_input": text})
    form = PredictRequest(file=b"", point_coords=text)
    with pytest.raises(RequestError):
        SamgeoPrompts.of(form, Limits())
