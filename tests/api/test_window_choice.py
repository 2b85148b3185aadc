"""The one decision whether an image is segmented by windows, in every API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest

from inference_server.api.window_choice import WindowChoice
from inference_server.errors import ImageError, ImageTooLargeError
from inference_server.images.raster_source import RasterSource
from inference_server.images.window_reader import RasterLimits
from inference_server.settings import Settings
from tests.api.pictures import encoded
from tests.api.rasters import geotiff

Tiles = Literal["auto", "always", "never"]
SETTINGS = Settings(max_image_mb=1)
UPLOADS, IMAGES = WindowChoice.of_uploads(), WindowChoice.of_images(SETTINGS)
BOTH = pytest.mark.parametrize("choice", [UPLOADS, IMAGES], ids=["uploads", "images"])
IMAGE = np.random.default_rng(1).integers(0, 256, (100, 120, 3), np.uint8)


@pytest.fixture
def tiff() -> Iterator[RasterSource]:
    with RasterSource(geotiff(IMAGE), RasterLimits.of(SETTINGS)) as source:
        yield source


@pytest.fixture
def png() -> Iterator[RasterSource]:
    with RasterSource(encoded(IMAGE), RasterLimits.of(SETTINGS)) as source:
        yield source


@BOTH
@pytest.mark.parametrize(
    ("tiles", "tile_size", "max_image_pixels", "expected"),
    [
        ("auto", None, 12_000, False),
        ("auto", None, 11_999, True),
        ("auto", 119, 12_000, True),
        ("auto", 120, 12_000, False),
        ("always", None, 12_000, True),
        ("never", None, 12_000, False),
    ],
)
def test_a_tiff_file(
    tiff: RasterSource,
    choice: WindowChoice,
    tiles: Tiles,
    tile_size: int | None,
    max_image_pixels: int,
    expected: bool,
) -> None:
    settings = SETTINGS.model_copy(update={"max_image_pixels": max_image_pixels})
    assert choice.uses_windows(tiff, tiles, tile_size, settings) == expected


@BOTH
def test_never_names_the_limits(tiff: RasterSource, choice: WindowChoice) -> None:
    settings = SETTINGS.model_copy(update={"max_image_side": 119})
    with pytest.raises(ImageTooLargeError, match=f"INFERENCE_MAX_IMAGE_SIDE or {choice.setting}"):
        choice.uses_windows(tiff, "never", None, settings)


def test_only_images_from_anywhere_have_a_limit_of_bytes() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (700, 700, 3), np.uint8)
    with RasterSource(geotiff(noise), RasterLimits.of(SETTINGS)) as source:
        assert source.nbytes > 2**20
        assert IMAGES.uses_windows(source, "auto", None, SETTINGS)
        assert not UPLOADS.uses_windows(source, "auto", None, SETTINGS)
        assert not UPLOADS.uses_windows(source, "never", None, SETTINGS)
        with pytest.raises(ImageTooLargeError, match="INFERENCE_MAX_IMAGE_MB"):
            IMAGES.uses_windows(source, "never", None, SETTINGS)


def test_other_formats(png: RasterSource) -> None:
    assert not IMAGES.uses_windows(png, "auto", 100, SETTINGS)
    with pytest.raises(ImageError, match="Only TIFF files"):
        UPLOADS.uses_windows(png, "auto", 100, SETTINGS)
    for choice in (UPLOADS, IMAGES):
        with pytest.raises(ImageError, match="Only TIFF files"):
            choice.uses_windows(png, "always", None, SETTINGS)
