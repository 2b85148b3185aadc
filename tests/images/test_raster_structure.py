"""Rasters with every pixel layout and compression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference_server.images.raster_file import RasterFile
from tests.images.rasters import write
from tests.images.test_raster import BANDS, COLLAR, DEPTHS, GEO, SCENE, decode, off, stretched

STRUCTURES: dict[str, dict[str, Any]] = {
    "BigTIFF": {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 48},
    "tiles larger than the image": {"tiled": True, "blockxsize": 512, "blockysize": 512},
    "one row a strip": {"blockysize": 1},
    "deflate": {"compress": "deflate"},
    "deflate, predictor 2": {"compress": "deflate", "predictor": 2},
    "LZW, predictor 2, tiles": {"compress": "lzw", "predictor": 2, "tiled": True},
    "Zstandard": {"compress": "zstd"},
    "LERC": {"compress": "lerc"},
    "LERC and Zstandard": {"compress": "lerc_zstd"},
    "PackBits": {"compress": "packbits"},
    "WebP": {"compress": "webp", "WEBP_LOSSLESS": True},
    "WebP, tiles": {"compress": "webp", "WEBP_LOSSLESS": True, "tiled": True},
    "planes": {"interleave": "band"},
    "planes of compressed tiles": {"interleave": "band", "tiled": True, "compress": "deflate"},
    "overviews": {"overviews": (2, 4), "tiled": True},
    "COG": {"driver": "COG", "compress": "deflate", "overview_count": 2, "blocksize": 128},
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure(name: str) -> None:
    options = {**GEO, **STRUCTURES[name]}
    lerc, webp = "LERC" in name, "WebP" in name
    assert off(decode(write(BANDS, **options), "rasterio" if lerc or webp else "pillow")) == 0
    if webp:  # of 8 bits only, and with alpha
        shown = np.where(COLLAR, 0, 255).astype(np.uint8)
        data = write(np.concatenate([BANDS, shown[None]]), **options)
        assert off(decode(data)[20:-12, 30:-5], SCENE[20:-12, 30:-5]) == 0
        np.testing.assert_array_equal(RasterFile(data).valid, ~COLLAR)
        return
    deep = BANDS.astype(np.uint16) * 257
    masked = name != "COG" and not lerc
    data = write(deep, mask=~COLLAR if masked else None, **options)
    wanted = stretched(SCENE[20:-12, 30:-5] if masked else SCENE)
    assert off(decode(data)[20:-12, 30:-5] if masked else decode(data), wanted) <= 1
    if masked:
        np.testing.assert_array_equal(RasterFile(data).valid, ~COLLAR)


def test_predictor_3() -> None:
    fractions = DEPTHS["float32, 0 to 1"]
    kinds: list[dict[str, Any]] = [{"compress": "deflate"}, {"compress": "zstd", "tiled": True}]
    for options in kinds:
        assert off(decode(write(fractions, predictor=3, **options)), stretched(SCENE)) <= 1


@pytest.mark.parametrize("step", ["tiles", "one row a strip", "planes"])
def test_windows_and_strides_make_no_difference(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference_server.images import raster

    data = write(BANDS.astype(np.uint16) * 257, nodata=0, **STRUCTURES[step])
    whole = decode(data)
    monkeypatch.setattr(raster, "_WINDOW_PIXELS", 2000)
    np.testing.assert_array_equal(decode(data), whole)
    monkeypatch.setattr(raster, "SAMPLE_PIXELS", 4000)
    assert 0 < np.abs(decode(data).astype(int) - whole).mean() < 8
