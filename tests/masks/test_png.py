"""PNG files, decoded with Pillow."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from inference_server.masks import Mask, encode_pixels, encode_png, png_pieces
from tests.masks.planes import EXAMPLES, Plane, examples, planes


def check(plane: Plane) -> None:
    data = encode_png(Mask.from_plane(plane))
    expected = plane.astype(np.uint8) * 255
    with Image.open(io.BytesIO(data)) as image:  # verifies all checksums
        assert (image.format, image.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(image), expected)
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    check(examples()[name])


@settings(deadline=None)
@given(planes())
def test_planes(plane: Plane) -> None:
    check(plane)


@pytest.mark.parametrize("rows", [(0, 1), (699, 700), (350, 351), (0, 700), (3, 600)])
def test_long_runs_without_a_mask(rows: tuple[int, int]) -> None:
    plane = np.zeros((700, 1001), np.bool_)
    plane[slice(*rows), 7:990:3] = True
    check(plane)


def test_an_empty_mask() -> None:
    check(np.zeros((300, 500), np.bool_))


def test_empty_rows_take_little_room() -> None:
    plane = np.zeros((4032, 4032), np.bool_)
    plane[2000:2100, 1000:1200] = True
    assert len(encode_png(Mask.from_plane(plane))) < 20_000


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_pixels(shape: tuple[int, ...], dtype: type[np.uint8] | type[np.uint16]) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    read = cv2.imdecode(np.frombuffer(encode_pixels(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_pieces(dtype: type[np.uint8] | type[np.uint16], rows: int) -> None:
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (50, 33), dtype)
    strips = (pixels[top : top + rows] for top in range(0, 50, rows))
    data = b"".join(png_pieces((50, 33), dtype, strips))
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)
