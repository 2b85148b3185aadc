from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools import mask as coco

from inference_server.masks import Mask, encode_rle
from tests.masks.planes import EXAMPLES, Plane, examples, planes


def check(plane: Plane) -> None:
    encode: Any = coco.encode
    expected = encode(np.asfortranarray(plane.astype(np.uint8)))
    mask = Mask.from_plane(plane)
    encoded = encode_rle(mask)
    assert encoded == {"size": expected["size"], "counts": expected["counts"].decode()}
    decode: Any = coco.decode
    np.testing.assert_array_equal(decode(encoded).astype(np.bool_), plane)


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
