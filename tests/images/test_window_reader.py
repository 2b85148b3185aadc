"""Rasters on disk, read by windows: the pixels are those of the whole image."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from inference_server.errors import ImageError, RequestError
from inference_server.images import decode_image, raster, window_reader
from inference_server.images.raster import parse_bands
from inference_server.images.raster_file import RasterFile
from inference_server.images.raster_source import RasterSource
from inference_server.images.window import Window
from inference_server.images.window_reader import RasterLimits, WindowReader
from tests.images.rasters import write
from tests.images.test_raster import BANDS, COLLAR, DEPTHS, GEO, SCENE
from tests.images.test_raster_structure import STRUCTURES

LIMITS = RasterLimits()
HEIGHT, WIDTH = SCENE.shape[:2]


@contextmanager
def opened(
    data: bytes, folder: Path, limits: RasterLimits = LIMITS, bands: tuple[int, ...] | None = None
) -> Iterator[WindowReader]:
    """Open a file on disk, which is deleted at once."""
    path = folder / "raster.tif"
    path.write_bytes(data + bytes(2**20))  # larger than what is kept in memory
    with RasterSource.at(path, limits) as source:
        path.unlink()
        with source.reader(bands) as reader:
            yield reader


def together(reader: WindowReader, side: int = 100) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read all windows, and put their pixels together."""
    height, width = reader.size
    pixels = np.zeros((height, width, 3), np.uint8)
    valid = np.zeros((height, width), np.bool_)
    for y in range(0, height, side):
        for x in range(0, width, side):
            window = Window(x, y, min(side, width - x), min(side, height - y))
            found = reader.read(window)
            pixels[window.slices] = found.pixels
            valid[window.slices] = True if found.valid is None else found.valid
            assert reader.has_data(window) == bool(valid[window.slices].any())
    return pixels, valid


def whole(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Decode the image as one."""
    pixels = decode_image(data, max_pixels=10**6)
    valid = RasterFile(data).valid
    return pixels, np.ones(pixels.shape[:2], np.bool_) if valid is None else valid


def assert_same(data: bytes, folder: Path) -> None:
    with opened(data, folder) as reader:
        pixels, valid = together(reader)
    wanted, known = whole(data)
    np.testing.assert_array_equal(pixels, wanted)
    np.testing.assert_array_equal(valid, known)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure(name: str, tmp_path: Path) -> None:
    options = {**GEO, **STRUCTURES[name]}
    assert_same(write(BANDS, **options), tmp_path)
    if "WebP" in name:
        return
    masked = name != "COG" and "LERC" not in name
    deep = BANDS.astype(np.uint16) * 257
    assert_same(write(deep, mask=~COLLAR if masked else None, **options), tmp_path)
    assert_same(write(deep, nodata=int(deep[0, 0, 0]), **options), tmp_path)


@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth(name: str, tmp_path: Path) -> None:
    assert_same(write(DEPTHS[name], tiled=True, blockxsize=64, blockysize=64), tmp_path)
    bands = DEPTHS[name].copy()
    bands[:, :120, :110] = 0
    assert_same(write(bands, nodata=0, blockysize=7), tmp_path)


def _few(count: int) -> NDArray[np.uint8]:
    return BANDS[[0, 1, 2, 0, 1][:count]]


def _saved(mode: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(SCENE).convert(mode).save(file, "TIFF", **options)
    return file.getvalue()


OTHERS = {
    "grey": write(_few(1)),
    "grey and alpha": write(_few(2), ALPHA="YES"),
    "alpha": write(np.concatenate([BANDS, COLLAR[None] * np.uint8(255)])),
    "five bands": write(_few(5).astype(np.uint16), interleave="band"),
    "palette": write(
        _few(1) // 64, colormap={n: (n * 60, 255 - n * 60, n, 255) for n in range(4)}, nodata=2
    ),
    "palette of Pillow": _saved("P"),
    "one bit": _saved("1", compression="group4"),
    "four bits": write(_few(1) // 16, nbits=4),
    "JPEG": write(BANDS, compress="jpeg", photometric="YCbCr", tiled=True),
    "zero is white": write(_few(1).astype(np.uint16), photometric="MINISWHITE"),
    "NaN": write(np.where(COLLAR, np.nan, BANDS.astype(np.float32)), nodata=5),
    "nothing": write(BANDS * np.uint16(0), nodata=0),
    "sparse": write(BANDS * np.uint16(0), nodata=0, SPARSE_OK=True, tiled=True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_band(name: str, tmp_path: Path) -> None:
    data = OTHERS[name]
    if name == "JPEG":  # Pillow decodes it, and interpolates colours differently
        with opened(data, tmp_path) as reader:
            pixels, valid = together(reader)
        assert np.abs(pixels.astype(int) - whole(data)[0]).mean() < 1
        assert valid.all()
        return
    assert_same(data, tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {}])
def test_every_orientation(orientation: int, options: dict[str, Any], tmp_path: Path) -> None:
    assert_same(_saved("RGB", tiffinfo={274: orientation}, **options), tmp_path)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_strips_are_read_in_parts(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_reader, "_STRIP_BYTES", 4 * 100 * 150)
    monkeypatch.setattr(window_reader, "_PIECE_PIXELS", 3000)
    assert_same(_saved("RGB", compression="tiff_lzw", tiffinfo={274: orientation}), tmp_path)
    deep = np.where(COLLAR, 7, BANDS.astype(np.int16))
    assert_same(write(deep, nodata=7, blockysize=40, compress="deflate"), tmp_path)


def test_a_strip_is_unpacked_once_for_all_windows_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    draw = raster.OpenRaster.draw

    def count(self: raster.OpenRaster, window: Any, *rest: Any) -> Any:
        read.append(window)
        return draw(self, window, *rest)

    monkeypatch.setattr(raster.OpenRaster, "draw", count)
    with opened(write(BANDS, blockysize=1), tmp_path) as reader:
        together(reader)
    assert len(read) == -(-HEIGHT // 100)


@pytest.mark.parametrize("structure", [{"blockysize": 1}, {"tiled": True}])
def test_the_scale_of_a_large_raster_comes_from_some_blocks_or_an_overview(
    structure: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The windows agree with each other, whichever are read first, and with the whole image."""
    monkeypatch.setattr(raster, "_SAMPLED_PIXELS", 20_000)
    monkeypatch.setattr(window_reader, "_OVERVIEW_PIXELS", (1000, 20_000))
    y, x = np.mgrid[:600, :800]
    bands = np.stack([(y * 7 + x * 5) % 4000, y + 300, x + 500]).astype(np.uint16)
    bands[0, 0, 0] = 65_535  # a hot pixel
    windows = [Window(0, 0, 300, 200), Window(500, 400, 300, 200)]
    kinds: list[dict[str, Any]] = [{}, {"overviews": (2, 4)}]
    for more in kinds:
        structure = {"blockxsize": 64, "blockysize": 64, **structure}
        data = write(bands, **structure, **more)
        read = []
        for order in (windows, windows[::-1]):
            with opened(data, tmp_path) as reader:
                read.append({window: reader.read(window).pixels for window in order})
        wanted = decode_image(data, max_pixels=10**6)
        for window in windows:
            np.testing.assert_array_equal(read[0][window], read[1][window])
            difference = read[0][window].astype(int) - wanted[window.slices]
            assert np.abs(difference).max() <= 4


def test_a_sample_without_data_is_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "_SAMPLED_PIXELS", 3000)
    bands = np.zeros((3, 512, 512), np.uint16)
    bands[:, 200:250, 80:120] = np.arange(1, 41)
    data = write(bands, nodata=0, tiled=True, blockxsize=16, blockysize=16)
    with opened(data, tmp_path) as reader:
        pixels = reader.read(Window(80, 200, 40, 50)).pixels
    assert (pixels[:, 0] <= 10).all()
    assert (pixels[:, -1] >= 245).all()
    assert len(np.unique(pixels)) > 30


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_blocks_that_the_file_leaves_out_are_not_read(
    interleave: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = np.zeros((3, 256, 256), np.uint16)
    bands[2, 130, 70] = 5
    options: dict[str, Any] = {"blockxsize": 64, "blockysize": 64, "interleave": interleave}
    data = write(bands, nodata=0, tiled=True, SPARSE_OK=True, **options)
    windows = [Window(x, y, 60, 60) for y in range(0, 196, 60) for x in range(0, 196, 60)]
    with opened(data, tmp_path) as reader:
        full = [window for window in windows if reader.has_data(window)]
        assert full == [Window(60, 120, 60, 60)]
        monkeypatch.setattr(raster.OpenRaster, "draw", None)
        assert not reader.has_data(Window(128, 0, 128, 128))
        with pytest.raises(ImageError):
            reader.has_data(Window(60, 128, 60, 60))


def test_a_window_can_be_reduced(tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [{}, {"overviews": (2, 4), "tiled": True}]
    for options in kinds:
        with opened(write(BANDS, **options), tmp_path) as reader:
            found = reader.read(Window(0, 0, WIDTH, HEIGHT), max_side=WIDTH // 2)
            same = reader.read(Window(10, 20, 30, 40), max_side=40)
        assert found.pixels.shape == (HEIGHT // 2, WIDTH // 2, 3)
        wanted = SCENE.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3))
        if options:  # the overview has every second pixel
            wanted = SCENE[::2, ::2].astype(float)
        assert np.abs(found.pixels - wanted).max() <= 1
        np.testing.assert_array_equal(same.pixels, SCENE[20:60, 10:40])
    with opened(write(BANDS, mask=~COLLAR), tmp_path) as reader:
        found = reader.read(Window(0, 0, WIDTH, HEIGHT), max_side=WIDTH // 2)
    assert found.valid is not None
    assert found.valid.shape == found.pixels.shape[:2]
    assert np.mean(found.valid != ~COLLAR[::2, ::2]) < 0.01


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_are_chosen(dtype: Any, tmp_path: Path) -> None:
    """The same bands have the same scale, whatever the others hold."""
    infrared = np.full((1, HEIGHT, WIDTH), 90)
    data = write(np.concatenate([BANDS[::-1], infrared * 200]).astype(dtype))
    wanted = decode_image(write(BANDS.astype(dtype)), max_pixels=10**6)
    grey = decode_image(write(BANDS[:1].astype(dtype)), max_pixels=10**6)
    for bands, expected in (((3, 2, 1), wanted), ((3,), grey), ((2, 2, 2), None)):
        with opened(data, tmp_path, bands=bands) as reader:
            pixels, _ = together(reader)
        if expected is None:
            assert (pixels == pixels[:, :, :1]).all()
        else:
            np.testing.assert_array_equal(pixels, expected)


def test_validity_is_that_of_the_chosen_bands(tmp_path: Path) -> None:
    bands = BANDS.astype(np.int16) + 1
    bands[0, :50] = 0
    data = write(bands, nodata=0, interleave="band")
    with opened(data, tmp_path, bands=(1,)) as reader:
        _, valid = together(reader, 50)
    np.testing.assert_array_equal(valid.any(axis=1), np.arange(HEIGHT) >= 50)
    assert RasterFile(data).valid is None
    np.testing.assert_array_equal(RasterFile(data, bands=(1,)).valid, valid)


def test_a_product_that_names_its_colours_is_shown_in_them(tmp_path: Path) -> None:
    with MemoryFile() as file:
        options = {"width": WIDTH, "height": HEIGHT, "dtype": "uint16"}
        with file.open(driver="GTiff", count=4, **options) as dataset:
            dataset.write(np.concatenate([BANDS[::-1], BANDS[:1] // 2]).astype(np.uint16))
            blue, green, red = ColorInterp.blue, ColorInterp.green, ColorInterp.red
            dataset.colorinterp = [blue, green, red, ColorInterp.undefined]
        data = file.read()
    with opened(data, tmp_path) as reader:
        pixels, _ = together(reader)
    np.testing.assert_array_equal(
        pixels, decode_image(write(BANDS.astype(np.uint16)), max_pixels=10**6)
    )


@pytest.mark.parametrize(
    ("text", "bands"), [("3,2,1", (3, 2, 1)), (" 4 , 3,2 ", (4, 3, 2)), ("1", (1,))]
)
def test_parse_bands(text: str, bands: tuple[int, ...]) -> None:
    assert parse_bands(text) == bands


@pytest.mark.parametrize("text", ["", "1,2", "0", "1,2,3,4", "-1", "a", "1;2;3", "1" * 99, "٣,2,1"])
def test_bands_that_are_not_valid(text: str) -> None:
    with pytest.raises(RequestError, match="3,2,1"):
        parse_bands(text)


def test_a_band_that_the_file_lacks(tmp_path: Path) -> None:
    data = write(BANDS)
    with pytest.raises(RequestError, match="names band 4, but the image has only 3"):  # noqa: SIM117
        with opened(data, tmp_path, bands=(4, 3, 2)):
            pass
