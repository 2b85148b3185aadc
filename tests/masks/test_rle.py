from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from inference_server.masks import RLE, Mask, decode_rle, encode_rle
from tests.masks.planes import EXAMPLES, Plane, examples, planes


def check(plane: Plane) -> None:
    encode: Any = coco.encode
    expected = encode(np.asfortranarray(plane.astype(np.uint8)))
    mask = Mask.from_plane(plane)
    encoded = encode_rle(mask)
    assert encoded == {"size": expected["size"], "counts": expected["counts"].decode()}
    decoded = decode_rle(encoded)
    assert decoded.size == mask.size
    np.testing.assert_array_equal(decoded.runs, mask.runs)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    check(examples()[name])


@settings(deadline=None)
@given(planes())
def test_equal_to_pycocotools_on_the_plane(plane: Plane) -> None:
    check(plane)


def test_a_large_image() -> None:
    plane = np.zeros((4032, 4032), np.bool_)
    plane[4000:, 17] = True
    plane[5, 4000] = True
    check(plane)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_any_counts_decode(counts: list[int]) -> None:
    """Runs of length 0, which encoders do not write, are understood."""
    total = sum(counts) + 1
    counts = [*counts, 1]
    text = coco.frPyObjects({"size": [total, 1], "counts": counts}, total, 1)["counts"].decode()
    plane = decode_rle({"size": [total, 1], "counts": text}).to_plane()
    values = np.arange(len(counts)) % 2 == 1
    np.testing.assert_array_equal(plane[:, 0], np.repeat(values, counts))


@pytest.mark.parametrize(
    "encoded",
    [
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "5"},  # five pixels of four
        {"size": [2, 2], "counts": "3"},  # three pixels of four
        {"size": [2, 2], "counts": "5O"},  # 5, then -1
        {"size": [2, 2], "counts": "T"},  # ends where more must follow
        {"size": [2, 2], "counts": "PPPPPPPPPPPPP4"},  # a value that never ends
        {"size": [2, 2], "counts": "4\n"},
        {"size": [2, 2], "counts": "4é"},
        {"size": [2, 2], "counts": "4~"},
        {"size": [0, 2], "counts": "0"},
    ],
)
def test_what_is_no_mask_is_refused(encoded: RLE) -> None:
    with pytest.raises(ValueError):
        decode_rle(encoded)
