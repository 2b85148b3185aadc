"""Reduced decoding: JPEG files decoded at a fraction of their size, down to the model's input."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inference_server.engines.resize import resize
from inference_server.errors import ImageError, ImageTooLargeError
from inference_server.images import Picture, decode_image, decode_picture
from inference_server.images.headers import read_header

SIDE = 24


def picture(width: int, height: int) -> Image.Image:
    """A smooth, asymmetric image with details that are lost at a small size."""
    corners = np.array(
        [[[255, 0, 0], [0, 255, 0], [40, 40, 40]], [[0, 0, 255], [255, 255, 0], [255, 255, 255]]],
        np.uint8,
    )
    smooth = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).astype(int)
    grain = np.random.default_rng(0).integers(-8, 9, (height, width, 1))
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def save(image: Image.Image, name: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def decode(data: bytes, side: int | None = SIDE) -> Picture:
    found = decode_picture(data, max_pixels=1_000_000, side=side)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.flags.c_contiguous
    assert found.size == read_header(data).upright_size
    rows, columns = found.extent
    assert found.pixels.shape == (np.ceil(rows), np.ceil(columns), 3)
    return found


def off(data: bytes) -> NDArray[np.int_]:
    """Return the difference of the model's input from that of full decoding."""
    found = decode(data)
    whole = resize(decode_image(data, max_pixels=1_000_000), SIDE)
    reduced = resize(found.pixels, SIDE, found.extent)
    steps: NDArray[np.int_] = np.abs(reduced.numpy().astype(int) - whole.numpy())
    return steps


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(67, 400, 1), (68, 400, 2), (134, 400, 2), (135, 400, 4), (400, 269, 8)],
)
def test_the_shorter_side_stays_larger_than_the_models(width: int, height: int, scale: int) -> None:
    found = decode(save(picture(width, height)))
    assert found.scale == scale
    assert found.size == (height, width)
    assert scale == 1 or min(found.extent) >= 1.4 * SIDE


def test_without_a_side_everything_is_decoded() -> None:
    data = save(picture(400, 300))
    found = decode(data, None)
    assert found.scale == 1
    assert found.extent == (300, 400)
    np.testing.assert_array_equal(found.pixels, decode_image(data, max_pixels=120_000))


@pytest.mark.parametrize("size", [(400, 296), (75, 91), (149, 150), (301, 305), (303, 297)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_the_models_input_is_the_same(size: tuple[int, int], options: dict[str, Any]) -> None:
    data = save(picture(*size), quality=90, **options)
    assert decode(data).scale > 1
    assert off(data).mean() < 0.8
    assert off(data).max() < 10


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
def test_every_colour_mode(mode: str) -> None:
    data = save(picture(400, 296).convert(mode), quality=90)
    assert decode(data).scale == 8
    assert off(data).mean() < 0.8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(400, 296), (396, 296), (395, 297)])
def test_every_orientation(orientation: int, size: tuple[int, int]) -> None:
    data = save(picture(*size), quality=90, exif=oriented(orientation))
    assert off(data).mean() < 0.8
    # The partly filled column must not come first.
    divides = next(scale for scale in (8, 4, 2, 1) if not (size[0] % scale or size[1] % scale))
    assert decode(data).scale == (8 if orientation in (1, 5) else divides)


def test_a_partly_filled_column_is_not_squeezed_in() -> None:
    """297 columns become 37 1/8 at 1/8, stored as 38: using 38 would shift pixels by up to 2 %."""
    pixels = np.zeros((400, 297, 3), np.uint8)
    pixels[:, 280:] = 255
    data = save(Image.fromarray(pixels), quality=95)
    found = decode(data)
    assert found.scale == 8
    assert found.extent == (50, 37.125)
    bright = resize(found.pixels, SIDE, found.extent).float().mean() / 255
    assert float(bright) == pytest.approx(17 / 297, abs=0.002)
    assert abs(float(resize(found.pixels, SIDE).float().mean() / 255) - 17 / 297) > 0.01


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_other_formats_are_decoded_fully(name: str) -> None:
    assert decode(save(picture(400, 300), name)).scale == 1


def test_a_decoder_that_knows_no_fractions(monkeypatch: pytest.MonkeyPatch) -> None:
    imdecode = cv2.imdecode

    def whole(data: NDArray[np.uint8], flags: int) -> Any:
        del flags
        return imdecode(data, cv2.IMREAD_COLOR_RGB)

    monkeypatch.setattr(cv2, "imdecode", whole)
    found = decode(save(picture(400, 300)))
    assert found.scale == 1
    assert found.pixels.shape == (300, 400, 3)


def test_the_limit_is_on_the_size_in_full() -> None:
    data = save(picture(400, 300))
    assert decode_picture(data, max_pixels=120_000, side=SIDE).scale == 8
    with pytest.raises(ImageTooLargeError, match="400 x 300"):
        decode_picture(data, max_pixels=119_999, side=SIDE)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(share: float) -> None:
    data = save(picture(400, 300))
    with pytest.raises(ImageError, match=r"^Could not load input image\. Cause: "):
        decode_picture(data[: int(len(data) * share)], max_pixels=120_000, side=SIDE)
