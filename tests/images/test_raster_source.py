"""Image files on disk: read in small pieces, refused with a remedy, and hostile ones at no cost."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import socket
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_server.errors import ImageError, ImageTooLargeError, InferenceServerError
from inference_server.geo import GeoRaster
from inference_server.images.file_bytes import FileBytes
from inference_server.images.headers import read_header
from inference_server.images.raster_source import RasterSource
from inference_server.images.window import Window
from inference_server.images.window_reader import RasterLimits
from tests.images import rasters
from tests.images.hostile_files import corpus, png_of_nothing
from tests.images.test_hostile import directory
from tests.images.test_hostile_rasters import pages, sparse, with_metadata
from tests.images.test_raster import BANDS, GEO
from tests.open_files import open_below

LIMITS = RasterLimits()
ALL = Window(0, 0, 8, 8)


def on_disk(data: bytes, limits: RasterLimits = LIMITS) -> RasterSource:
    """Store a file without a name, and open it although it may be small."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        return RasterSource(FileBytes(file), limits)


def refused(data: bytes, error: type[InferenceServerError], limits: RasterLimits = LIMITS) -> str:
    """Read a file by windows as a request does, and return the error's message."""
    with (
        on_disk(data, limits) as source,
        pytest.raises(error) as caught,
        source.reader() as reader,
    ):
        reader.read(ALL)
    return caught.value.message


def test_a_file_is_read_like_bytes() -> None:
    data = os.urandom(3_000_000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        held = FileBytes(file)
    places = [(0, 4), (5, 5), (9, 2), (2_999_990, 10**9), (10**12, 10**13), (2**80, 2**90)]
    for start, stop in [*places, (100, 2_500_000)]:
        assert held[start:stop] == data[start:stop]
    assert len(held) == 3_000_000
    assert Path(held.path).read_bytes() == data
    held.close()
    held.close()


def test_a_file_that_is_cut_off_meanwhile_does_no_harm(tmp_path: Path) -> None:
    """If it were mapped into memory, the process would be killed."""
    path = tmp_path / "a.tif"
    path.write_bytes(rasters.write(BANDS, tiled=True, blockxsize=64, blockysize=64) * 5)
    with RasterSource.at(path, LIMITS) as source, source.reader() as reader:
        reader.read(Window(0, 0, 64, 64))
        os.truncate(path, 4096)
        with pytest.raises(ImageError, match="truncated"):
            reader.read(Window(0, 128, 320, 64))
        assert source.data[10_000:10_010] == b""


@pytest.mark.parametrize("size", [100, 2**20 + 1, 3 * 2**20])
def test_a_source_of_any_size(size: int) -> None:
    data = rasters.write(BANDS, **GEO)
    data = (data + bytes(max(0, size - len(data))))[: max(size, len(data))]
    with tempfile.SpooledTemporaryFile(2**20) as file:
        file.write(data)
        source = RasterSource.of(file, LIMITS)
    with source:
        assert source.nbytes == len(data)
        assert source.digest == hashlib.sha256(data).hexdigest()
        assert source.content() == data
        assert source.header == read_header(data)
        assert source.size == (240, 320)
        assert source.fits(240 * 320, 320)
        assert not source.fits(240 * 320 - 1, 320)
        assert not source.fits(240 * 320, 319)
        reference = GeoRaster(source.data).reference
        assert reference is not None
        assert reference == GeoRaster(data).reference
    source.close()


def test_files_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(rasters.write(BANDS, overviews=(2, 4)) + bytes(2**20))
    for _ in range(3):
        with RasterSource.at(path, LIMITS) as source, source.reader() as reader:
            reader.read(ALL)
            assert open_below(path)
        with RasterSource.at(path, LIMITS) as source:
            _ = GeoRaster(source.data).reference
    path.write_bytes(b"II*\0" + bytes(2**21))
    with RasterSource.at(path, LIMITS) as source, pytest.raises(ImageError):
        source.reader()
    assert not open_below(path)


def test_other_formats_are_read_as_a_whole() -> None:
    data = png_of_nothing(300, 200)
    limits = RasterLimits(max_content_bytes=len(data))
    with on_disk(data, limits) as source:
        assert source.header.format == "PNG"
        assert source.fits(60_000, 300)
        with pytest.raises(ImageError, match=r"Only TIFF.*PNG.*gdal_translate -co TILED=YES"):
            source.reader()
    with on_disk(data + b"x", limits) as source:
        with pytest.raises(ImageTooLargeError, match=r"only TIFF files may be.*gdal_translate"):
            _ = source.header
        with pytest.raises(ImageTooLargeError, match="gdal_translate"):
            source.reader()


def test_a_large_tiff_is_not_read_as_a_whole() -> None:
    data = rasters.write(BANDS)
    with on_disk(data, RasterLimits(max_content_bytes=len(data) - 1)) as source:
        assert not source.fits(10**9, 10**9)
        with pytest.raises(ImageTooLargeError, match="INFERENCE_MAX_UPLOAD_MB"):
            source.content()
        with source.reader() as reader:
            assert reader.read(ALL).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("data", "limits", "error", "cause"),
    [
        (sparse(70_000, 70_000), LIMITS, ImageTooLargeError, "INFERENCE_MAX_RASTER_PIXELS"),
        (sparse(1_000_001, 2), LIMITS, ImageTooLargeError, "INFERENCE_MAX_RASTER_SIDE"),
        (sparse(8, 8, bands=60_000), LIMITS, ImageError, "bands"),
        (sparse(8, 8, bits=4096), LIMITS, ImageError, "damaged"),
        (pages(4, 4000), LIMITS, ImageError, "directories"),
        (with_metadata(10_000), LIMITS, ImageError, "metadata items"),
        (with_metadata(2000, name="k" * 2200), LIMITS, ImageError, "4 MiB"),
        (rasters.write(BANDS.astype(np.complex64)), LIMITS, ImageError, "complex"),
        (b"<VRTDataset/>" * 100, LIMITS, ImageError, "web page"),
    ],
    ids=["pixels", "side", "bands", "bits", "pages", "items", "metadata", "complex", "vrt"],
)
def test_rasters_that_are_refused(
    data: bytes, limits: RasterLimits, error: type[InferenceServerError], cause: str
) -> None:
    started = time.thread_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert cause in refused(data, error, limits)
    assert time.thread_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 * 1024


def test_cmyk_is_refused() -> None:
    options: dict[str, Any] = {"photometric": "CMYK"}
    assert "CMYK" in refused(rasters.write(BANDS[[0, 1, 2, 0]], **options), ImageError)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_in_one_strip(compressed: bool) -> None:
    """GDAL would unpack it as a whole; without compression it reads any part of it."""
    options: dict[str, Any] = {"compress": "deflate"} if compressed else {}
    data = rasters.write(np.zeros((3, 4000, 2000), np.uint8), blockysize=4000, **options)
    limits = RasterLimits(max_block_bytes=2**23)
    if compressed:
        message = refused(data, ImageTooLargeError, limits)
        assert "23 MiB unpacked; the limit is 8 MiB" in message
        assert "gdal_translate -co TILED=YES" in message
        assert "INFERENCE_MAX_RASTER_BLOCK_MB" in message
        return
    with on_disk(data, limits) as source, source.reader() as reader:
        assert not reader.read(Window(0, 3000, 100, 100)).pixels.any()


def test_a_sparse_file_is_read_without_its_tiles(tmp_path: Path) -> None:
    """As GDAL writes areas without data: 800 megapixels in a few kilobytes."""
    data = sparse(28_284, 28_284, bits=16, strip=16)
    with on_disk(data) as source, source.reader() as reader:
        found = reader.read(Window(28_000, 28_000, 284, 284))
    assert not found.pixels.any()


def test_a_table_larger_than_memory_is_not_read() -> None:
    """Of integers, which are read to find sizes, and of bytes, which GDAL keeps."""
    huge = 2**28
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 1, huge, 200), (262, 3, 1, 1)]
    others = [*entries[:2], (258, 3, 1, 16), (262, 3, 1, 1), (700, 1, huge, 200)]
    for each, cause in ((entries, "values"), (others, "overlap")):
        with tempfile.TemporaryFile() as file:
            file.write(directory(*each))
            file.truncate(2 * huge)
            source = RasterSource(FileBytes(file), LIMITS)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with source, pytest.raises(ImageError, match=cause):
            source.reader()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50 * 1024


def test_a_raster_on_disk_cannot_make_gdal_look_elsewhere(tmp_path: Path) -> None:
    """Neither at what its metadata name, nor at files beside it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        lure = f"/vsicurl/http://127.0.0.1:{listener.getsockname()[1]}/a.tif"
        data = rasters.write(
            np.full((3, 600, 600), 7, np.uint8), tags={"OVERVIEW_FILE": lure}, tags_in="OVERVIEWS"
        )
        path = tmp_path / "a.tif"
        path.write_bytes(data + bytes(2**20))
        other = rasters.write(np.full((1, 300, 300), 200, np.uint8))
        for suffix in (".ovr", ".msk", ".aux.xml"):
            (tmp_path / f"a.tif{suffix}").write_bytes(other)
        (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n500000\n600000\n")
        with RasterSource.at(path, LIMITS) as source, source.reader() as reader:
            whole = reader.read(Window(0, 0, 600, 600), max_side=200)
            assert (whole.pixels == 7).all()
            assert whole.valid is None
            assert GeoRaster(source.data).reference is None
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_name_is_no_command_for_gdal(tmp_path: Path) -> None:
    """GDAL never sees the name: such names select other drivers, archives or directories."""
    for name in ("GTIFF_DIR:2:a.tif", "zip+file:a.zip!b.tif", "a.tif?x=1", "vsimem"):
        path = tmp_path / name
        path.write_bytes(rasters.write(BANDS) + bytes(2**20))
        with RasterSource.at(path, LIMITS) as source, source.reader() as reader:
            np.testing.assert_array_equal(
                reader.read(ALL).pixels, BANDS[:, :8, :8].transpose(1, 2, 0)
            )


def test_damaged_files(capfd: pytest.CaptureFixture[str]) -> None:
    """A third of the TIFF files of the corpus of hostile images: an error, or pixels."""
    done = 0
    files = [data for name, data in corpus().items() if name.startswith("tiff")]
    for data in files[::3]:
        with on_disk(data) as source:
            try:
                with source.reader() as reader:
                    height, width = reader.size
                    found = reader.read(Window(0, 0, min(width, 500), min(height, 500)))
                    assert found.pixels.dtype == np.uint8
                    done += 1
            except (ImageError, ImageTooLargeError):
                continue
    assert done > 10
    assert capfd.readouterr().err == ""


def test_what_is_no_tiff_on_disk() -> None:
    with on_disk(b"") as source, pytest.raises(ImageError, match="empty"):
        _ = source.header
    with on_disk(struct.pack("<2sHI", b"II", 42, 8)) as source, pytest.raises(ImageError):
        _ = source.header
    with RasterSource.of(io.BytesIO(b"x"), LIMITS) as source, pytest.raises(ImageError):
        _ = source.size
