"""Label Studio's brush run lengths, compared with a decoder written from its format.

`tests/e2e/test_label_studio.py` compares them with the decoder and the encoder of
`label-studio-sdk`.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference_server.masks import Mask, brush, encode_brush
from tests.api.label_studio.projects import decode_brush
from tests.api.pictures import Plane


def assert_decodes(plane: Plane) -> None:
    runs = encode_brush(Mask.from_plane(plane))
    assert runs.dtype == np.uint8
    expected = np.repeat(np.where(plane, 255, 0).ravel(), 4)
    assert np.array_equal(decode_brush(runs.tolist()), expected)


def test_the_documented_example() -> None:
    runs = encode_brush(Mask.from_plane(np.ones((2, 2), np.bool_)))
    assert runs.tolist() == [0, 0, 0, 16, 57, 27, 253, 255, 240]


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask(plane: Plane) -> None:
    assert_decodes(plane)


@pytest.mark.parametrize("size", [(1, 1), (300, 400), (7, 16385)])
@pytest.mark.parametrize("value", [False, True])
def test_long_runs_are_divided(size: tuple[int, int], value: bool) -> None:
    assert_decodes(np.full(size, value))


def test_runs_continue_in_the_next_row() -> None:
    plane = np.zeros((40, 50), np.bool_)
    plane[10:20] = True
    plane[12, 5:9] = False
    assert_decodes(plane)


def test_many_records_are_packed_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brush, "_CHUNK", 7)
    assert_decodes(np.random.default_rng(0).random((30, 41)) < 0.5)


def test_the_cost_follows_the_mask() -> None:
    plane = np.zeros((4000, 4000), np.bool_)
    plane[1000:1010, 2000:2030] = True
    # The background takes a record of 27 bits for each 65,536 values.
    assert len(encode_brush(Mask.from_plane(plane))) < 3500
