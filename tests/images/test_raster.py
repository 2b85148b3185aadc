"""Rasters: values that are not 8-bit colours."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from inference_server.demo.scenes import make_scene
from inference_server.errors import ImageError, ImageTooLargeError
from inference_server.images import decode_image, decode_picture
from inference_server.images.headers import read_header
from inference_server.images.raster_file import RasterFile
from tests.images.rasters import write

SCENE = make_scene(3, (320, 240)).image
BANDS = np.ascontiguousarray(SCENE.transpose(2, 0, 1))
COLLAR = np.ones(SCENE.shape[:2], np.bool_)
COLLAR[20:-12, 30:-5] = False
GEO: dict[str, Any] = {"crs": "EPSG:3857", "transform": Affine(0.5, 0, 1e6, 0, -0.5, 6e6)}


def decode(data: bytes, decoder: str = "rasterio") -> NDArray[np.uint8]:
    assert read_header(data).decoder == decoder
    pixels = decode_image(data, max_pixels=1_000_000)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert read_header(data).upright_size == pixels.shape[:2]
    return pixels


def stretched(pixels: NDArray[np.uint8]) -> NDArray[np.int_]:
    """Scale values to 8 bits with one linear scale for all bands."""
    count = pixels[:, :, 0].size
    ordered = np.sort(pixels.reshape(-1, 3), axis=0).astype(float)
    low, high = ordered[(count - 1) // 1000].min(), ordered[-1 - (count - 1) // 1000].max()
    scaled: NDArray[np.int_] = np.rint((pixels - low) * 255 / (high - low)).astype(int)
    return scaled.clip(0, 255)


def off(pixels: NDArray[np.uint8], wanted: NDArray[Any] = SCENE) -> int:
    """Return the largest difference over all pixels and bands."""
    assert pixels.shape == wanted.shape
    return int(np.abs(pixels.astype(int) - wanted.astype(int)).max())


DEPTHS: dict[str, NDArray[Any]] = {
    "uint16, whole range": BANDS.astype(np.uint16) * 257,
    "uint16, 11 bits and a pedestal": BANDS.astype(np.uint16) * 11 + 300,
    "int16, partly negative": BANDS.astype(np.int16) * 30 - 4000,
    "int32": BANDS.astype(np.int32) * 100_000 - 10_000_000,
    "uint32": BANDS.astype(np.uint32) * 10_000_000,
    "int64": BANDS.astype(np.int64) * 10**15,
    "float32, 0 to 1": BANDS.astype(np.float32) / 255,
    "float64, far off": BANDS.astype(np.float64) * 1e200 + 1e202,
    "int8": (BANDS.astype(np.int16) // 2 - 64).astype(np.int8),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_a_scene_of_any_depth_looks_the_same(name: str) -> None:
    pixels = decode(write(DEPTHS[name], **GEO))
    assert off(pixels, stretched(SCENE)) <= (3 if name == "int8" else 1)
    # The scene already uses almost the whole 8-bit range, so stretching changes little.
    assert off(pixels) <= 40
    assert np.abs(pixels.astype(int) - SCENE).mean() < 20


@pytest.mark.parametrize("count", [5, 8])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_the_first_three_of_many_bands_are_colours(count: int, interleave: str) -> None:
    others = np.full((count - 3, *SCENE.shape[:2]), 250, np.uint8)
    bands = np.concatenate([BANDS, others])
    assert off(decode(write(bands, interleave=interleave, **GEO))) == 0
    deep = bands.astype(np.uint16) * 257
    assert off(decode(write(deep, interleave=interleave, **GEO)), stretched(SCENE)) <= 1


def test_four_bytes_without_rgb_are_bands() -> None:
    bands = np.concatenate([BANDS, BANDS[:1]])
    assert off(decode(write(bands, photometric="minisblack"))) == 0
    assert off(decode(write(bands, photometric="rgb"), "pillow")) == 0


@pytest.mark.parametrize("alpha", ["yes", "no"])
def test_the_first_of_two_bands_is_grey(alpha: str) -> None:
    bands = BANDS[:2].copy()
    assert off(decode(write(bands, alpha=alpha)), SCENE[:, :, :1].repeat(3, axis=2)) == 0
    grey = decode(write(bands[:1].astype(np.uint16) * 3, alpha=alpha))
    assert off(grey, stretched(SCENE[:, :, :1].repeat(3, axis=2))) <= 1


@pytest.mark.parametrize("name", DEPTHS)
def test_nodata_is_black_and_does_not_affect_the_scale(name: str) -> None:
    bands = DEPTHS[name].copy()
    inside = SCENE[~COLLAR].reshape(240 - 32, 320 - 35, 3)
    nothing = 127 if name == "int8" else np.iinfo(np.int16).max
    if bands.dtype.kind == "f":
        nothing = -9999
    if name.startswith("int64"):
        nothing = -1
    bands[:, COLLAR] = nothing
    data = write(bands, nodata=nothing, **GEO)
    pixels = decode(data)
    assert not pixels[COLLAR].any()
    assert off(pixels[20:-12, 30:-5], stretched(inside)) <= (3 if name == "int8" else 1)
    np.testing.assert_array_equal(RasterFile(data).valid, ~COLLAR)


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("told", [False, True])
def test_nan_is_nodata(nothing: float, told: bool) -> None:
    bands = DEPTHS["float32, 0 to 1"].copy()
    bands[:, COLLAR] = nothing
    data = write(bands, nodata=nothing if told else None)
    pixels = decode(data)
    assert not pixels[COLLAR].any()
    assert pixels[~COLLAR].any(axis=-1).mean() > 0.99
    np.testing.assert_array_equal(RasterFile(data).valid, ~COLLAR)


def test_a_colour_that_has_the_nodata_value_in_one_band_stays() -> None:
    bands = np.zeros((3, 4, 4), np.uint8)
    bands[0, 1:, 1:] = 200
    data = write(bands, nodata=0)
    assert decode(data)[1:, 1:].reshape(-1, 3).tolist() == [[200, 0, 0]] * 9
    valid = RasterFile(data).valid
    assert valid is not None
    assert valid.sum() == 9


def test_eight_bits_with_nodata_are_taken_as_they_are() -> None:
    bands = (BANDS // 4).astype(np.uint8)
    bands[:, COLLAR] = 255
    pixels = decode(write(bands, nodata=255, **GEO))
    assert not pixels[COLLAR].any()
    np.testing.assert_array_equal(pixels[~COLLAR], SCENE[~COLLAR] // 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_hides_nothing_but_says_what_is_valid(dtype: Any) -> None:
    bands = BANDS.astype(dtype) * dtype(257 if dtype is np.uint16 else 1)
    masked = write(bands, mask=~COLLAR, **GEO)
    veiled = write(
        np.concatenate([bands, np.where(COLLAR, 0, np.iinfo(dtype).max)[None].astype(dtype)]),
        photometric="rgb",
        alpha="yes",
    )
    for data in (masked, veiled):
        pixels = decode(data, "pillow" if dtype is np.uint8 else "rasterio")
        np.testing.assert_array_equal(RasterFile(data).valid, ~COLLAR)
        if dtype is np.uint8:
            assert off(pixels) == 0
        else:
            inside = stretched(SCENE[20:-12, 30:-5])
            assert off(pixels[20:-12, 30:-5], inside) <= 1
            assert pixels[COLLAR].any()


def test_fully_valid_rasters_have_no_mask() -> None:
    assert RasterFile(write(BANDS)).valid is None
    assert RasterFile(write(BANDS.astype(np.float32))).valid is None
    assert RasterFile(write(BANDS.astype(np.uint16) + 1, nodata=0)).valid is None
    assert RasterFile(write(BANDS, mask=np.ones_like(COLLAR))).valid is None


@pytest.mark.parametrize("data", [b"", b"II", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"<html>"])
def test_other_formats_have_no_invalid_pixels(data: bytes) -> None:
    assert RasterFile(data).valid is None


def test_a_plain_image_does_not_depend_on_gdal() -> None:
    data = write(BANDS, mask=~COLLAR, tags={"greeting": "good day"})
    odd = data.replace(b"<Item", b"<\xe4tem")  # not passed to GDAL
    assert off(decode(odd, "pillow")) == 0
    assert RasterFile(odd).valid is None
    assert RasterFile(data).valid is not None


def test_no_mask_is_read_without_nodata(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference_server.images.raster import OpenRaster

    monkeypatch.delattr(OpenRaster, "read")
    assert RasterFile(write(BANDS.astype(np.uint16))).valid is None
    with pytest.raises(ImageError):
        _ = RasterFile(write(BANDS, nodata=0)).valid


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_orientation_turns_pixels_and_validity(orientation: int, dtype: Any) -> None:
    rows, columns = np.mgrid[:20, :30]
    bands: NDArray[Any] = np.repeat((rows * 8 + columns)[None], 3, axis=0).astype(dtype)
    data = write(bands, mask=(rows < 5) & (columns < 9))
    # GDAL cannot write the orientation tag, so it replaces the tag for interleaved bands, which is
    # the default.
    planar = data.index(b"\x1c\x01\x03\0\x01\0\0\0\x01\0")
    turned = bytearray(data)
    turned[planar : planar + 10] = bytes((0x12, 1, 3, 0, 1, 0, 0, 0, orientation, 0))
    pixels = decode(bytes(turned), "pillow" if dtype is np.uint8 else "rasterio")
    valid = RasterFile(bytes(turned)).valid
    assert valid is not None
    assert valid.shape == pixels.shape[:2]
    assert valid.sum() == 45
    upright = decode(data, "pillow" if dtype is np.uint8 else "rasterio")
    assert sorted(pixels[valid].tolist()) == sorted(upright[:5, :9].reshape(-1, 3).tolist())
    corner = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    at = 0 if corner[0] == "t" else -1, 0 if corner[1] == "l" else -1
    assert valid[at]
    assert pixels[at].tolist() == upright[0, 0].tolist()


def test_a_jpeg_with_nodata() -> None:
    options: dict[str, Any] = {"compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": 95}
    without = decode(write(BANDS, **options), "pillow")
    assert np.abs(decode(write(BANDS, nodata=0, **options)).astype(int) - without).mean() < 2


def test_a_palette_with_nodata() -> None:
    classes = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) % 4
    colours = {0: (9, 9, 9, 255), 1: (255, 0, 0, 255), 2: (0, 255, 0, 255), 3: (0, 0, 250, 255)}
    data = write(classes, colormap=colours, nodata=0)
    assert decode(data)[0, :4].tolist() == [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 250]]
    assert decode(write(classes, colormap=colours), "pillow")[0, 0].tolist() == [9, 9, 9]


def test_few_bits_with_nodata_reach_white() -> None:
    values = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    assert decode(write(values, nbits=4, nodata=0))[:, :, 0].ravel().tolist() == list(
        range(0, 256, 17)
    )


@pytest.mark.parametrize("nbits", [None, 12])
def test_zero_can_be_white(nbits: int | None) -> None:
    values = np.array([[[0, 1000], [3000, 4000]]], np.uint16)
    options: dict[str, Any] = {} if nbits is None else {"nbits": nbits}
    assert decode(write(values, **options))[:, :, 1].tolist() == [[0, 64], [191, 255]]
    white = write(values, photometric="miniswhite", **options)
    assert decode(white)[:, :, 1].tolist() == [[255, 191], [64, 0]]


def test_outliers_do_not_affect_the_scale() -> None:
    field = np.random.default_rng(0).integers(1000, 2000, (1, 200, 200)).astype(np.uint16)
    field[0, 50, 50] = 65535
    field[0, 60:70, 60:70] = 4000  # 0.25 % of the image
    pixels = decode(write(field))
    assert pixels[50, 50, 0] == 255
    assert (pixels[60:70, 60:70] == 255).all()
    assert 80 <= pixels[:40].max() <= 90  # a scale up to the hot pixel would give 4


def test_an_image_of_one_value_is_black() -> None:
    flat = np.full((3, 50, 50), 700, np.uint16)
    assert not decode(write(flat)).any()
    flat[0, 3, 3] = 900  # below the percentiles, but the only visible content
    assert decode(write(flat))[3, 3].tolist() == [255, 0, 0]
    nothing = write(np.zeros((3, 50, 50), np.float32), nodata=0)
    assert not decode(nothing).any()
    valid = RasterFile(nothing).valid
    assert valid is not None
    assert not valid.any()


def test_the_ends_of_a_types_range_are_scaled_too() -> None:
    top = float(np.finfo(np.float64).max)
    wild = np.array([[[-top, 0.0], [top, 1.0]]])
    assert decode(write(wild))[1, 0, 0] in (0, 255)  # the range is infinite, but no error is raised
    ends = np.array([[[0, 2**64 - 1]]], np.uint64)
    assert decode(write(ends))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, "complex_int16"])
def test_complex_numbers_are_refused(dtype: Any) -> None:
    bands = np.ones((1, 4, 4), np.complex64 if isinstance(dtype, str) else dtype)
    with MemoryFile() as file:
        with file.open(driver="GTiff", count=1, height=4, width=4, dtype=dtype) as dataset:
            dataset.write(bands)
        data = file.read()
    with pytest.raises(ImageError, match=r"complex numbers.*magnitude"):
        decode(data)


def test_the_pixel_limit_is_exact() -> None:
    data = write(BANDS.astype(np.uint16))
    assert decode_image(data, max_pixels=SCENE[:, :, 0].size).shape == SCENE.shape
    with pytest.raises(ImageTooLargeError, match="320 x 240 pixels; the limit is"):
        decode_image(data, max_pixels=SCENE[:, :, 0].size - 1)


def test_a_strip_of_many_bytes_counts_as_many_pixels() -> None:
    bands = np.zeros((64, 100, 100), np.float32)
    data = write(bands, blockysize=100, interleave="pixel", compress="deflate")
    assert len(data) < 20_000
    with pytest.raises(ImageTooLargeError, match="100 x 100 pixels of many bytes each"):
        decode_image(data, max_pixels=319_999)
    assert decode_image(data, max_pixels=320_000).shape == (100, 100, 3)


def test_rasters_are_never_decoded_reduced() -> None:
    assert decode_picture(write(BANDS.astype(np.uint16)), max_pixels=10**6, side=8).scale == 1


def test_a_band_called_alpha_is_no_colour_wherever_it_is() -> None:
    with MemoryFile() as file:
        with file.open(driver="GTiff", count=5, height=240, width=320, dtype="uint8") as dataset:
            dataset.write(np.concatenate([BANDS[:1] * 0, BANDS, BANDS[:1]]))
            dataset.colorinterp = [ColorInterp.alpha] + [ColorInterp.undefined] * 4
        data = file.read()
    assert off(decode(data)) == 0


def tagged(bands: NDArray[Any], kinds: list[ColorInterp], **options: Any) -> bytes:
    count, height, width = bands.shape
    with MemoryFile() as file:
        with file.open(
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=bands.dtype,
            **{**GEO, **options},
        ) as dataset:
            dataset.colorinterp = kinds
            dataset.write(bands)
        return bytes(file.getbuffer())


RED, GREEN, BLUE, OTHER = (
    ColorInterp.red,
    ColorInterp.green,
    ColorInterp.blue,
    ColorInterp.undefined,
)
INFRARED = 255 - BANDS[:1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("bands", "kinds"),
    [
        (BANDS[::-1], [BLUE, GREEN, RED]),
        (np.concatenate([BANDS[::-1], INFRARED]), [BLUE, GREEN, RED, OTHER]),
        (np.concatenate([BANDS[::-1], INFRARED]), [BLUE, GREEN, RED, ColorInterp.alpha]),
        (np.concatenate([INFRARED, INFRARED, BANDS]), [OTHER, OTHER, RED, GREEN, BLUE]),
        (BANDS[[1, 2, 0]], [GREEN, BLUE, RED]),
        (BANDS, [OTHER, OTHER, OTHER]),
        (BANDS, [BLUE, OTHER, OTHER]),  # without all three tags, the order counts
    ],
)
def test_bands_have_the_colours_that_their_tags_say(
    bands: NDArray[np.uint8], kinds: list[ColorInterp], dtype: Any
) -> None:
    for options in ({}, {"interleave": "band"}):
        data = tagged(bands.astype(dtype), kinds, **options)
        pixels = decode(data, read_header(data).decoder)
        shown = np.ones(SCENE.shape[:2], np.bool_)
        if ColorInterp.alpha in kinds:  # transparent pixels do not affect the scale
            shown = bands[kinds.index(ColorInterp.alpha)] != 0
        wanted = SCENE if dtype == np.uint8 else stretched(SCENE[shown][None])
        assert off(pixels[shown][None], wanted[shown][None] if dtype == np.uint8 else wanted) <= 1


def test_tags_that_contradict_the_photometric_count(tmp_path: Path) -> None:
    """As GDAL writes them if an RGB file is changed: Pillow would take no notice."""
    path = tmp_path / "changed.tif"
    path.write_bytes(write(BANDS[::-1], photometric="RGB", **GEO))
    assert off(decode(path.read_bytes(), "pillow"), SCENE[:, :, ::-1]) == 0
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [BLUE, GREEN, RED]
    assert off(decode(path.read_bytes())) == 0


def test_threads_do_not_disturb_each_other() -> None:
    kinds = [
        write(BANDS.astype(np.uint16) * 257, nodata=0, compress="deflate"),
        write(BANDS.astype(np.float32), mask=~COLLAR),
        write(BANDS, nodata=0, tiled=True),
        write(BANDS.astype(np.uint16))[:3000],
    ]

    def work(index: int) -> tuple[int, int] | str:
        data = kinds[index % len(kinds)]
        try:
            pixels, valid = decode_image(data, max_pixels=10**6), RasterFile(data).valid
        except ImageError as error:
            return error.message
        return int(pixels.sum()), -1 if valid is None else int(valid.sum())

    alone = [work(index) for index in range(len(kinds))]
    assert len(set(alone)) == len(kinds)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(64))) == alone * 16


def test_gdal_is_silent_about_damage(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write(BANDS.astype(np.uint16), compress="deflate")
    caplog.set_level(logging.DEBUG)
    for broken in (data[:3000], data[:5000] + b"\xff" * (len(data) - 5000)):
        with pytest.raises(ImageError, match="TIFF file is truncated or damaged"):
            decode(broken)
        assert read_header(broken).upright_size == (240, 320)
    # Servers of other tests may log at the same time.
    said = [record for record in caplog.records if record.thread == threading.get_ident()]
    assert not [record for record in said if record.levelno > logging.DEBUG]
    assert capfd.readouterr().err == ""


def test_rasterio_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, inference_server.images; assert 'rasterio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
