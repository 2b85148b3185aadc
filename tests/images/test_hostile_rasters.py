"""Small rasters that would be expensive to read, or refer to other files."""

from __future__ import annotations

import socket
import struct
import time

import numpy as np
import pytest

from inference_server.errors import ImageError, ImageTooLargeError, InferenceServerError
from inference_server.images import decode_image
from inference_server.images.raster_file import RasterFile
from tests.images import rasters
from tests.images.test_hostile import MAX_PIXELS, _stay_within_bounds, directory, refused

__all__ = ["_stay_within_bounds"]  # an autouse fixture


def sparse(width: int, height: int, *, bits: int = 16, bands: int = 1, strip: int = 1) -> bytes:
    """Build a raster whose strips are all absent, which means zeros."""
    return directory(
        *[(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1)],
        *[(262, 3, 1, 1), (273, 4, 1, 0), (277, 3, 1, bands), (278, 4, 1, strip)],
        *[(279, 4, 1, 0), (339, 3, 1, 1)],
    )


@pytest.mark.parametrize(
    ("data", "error", "cause"),
    [
        (sparse(7000, 7000, bits=64, bands=3, strip=7000), ImageTooLargeError, "many bytes each"),
        (sparse(5000, 5000, bits=32, bands=300), ImageTooLargeError, "many bytes each"),
        (sparse(8, 8, bands=60_000), ImageError, "bands"),
        (sparse(8, 8, bits=4096), ImageError, "damaged"),
        (sparse(7000, 7000)[:-8] + bytes(2), ImageError, "damaged"),
        (sparse(100_000, 100_000), ImageTooLargeError, "100000 x 100000"),
    ],
    ids=["strip", "bands", "countless-bands", "bits", "cut", "size"],
)
def test_small_rasters_of_great_cost(
    data: bytes, error: type[InferenceServerError], cause: str
) -> None:
    started = time.thread_time()  # CPU time, independent of other processes
    assert cause in refused(data, error)
    assert time.thread_time() - started < 2


@pytest.mark.parametrize("side", [(1, 9_000_000), (9_000_000, 1), (3000, 3000)])
def test_an_empty_raster_is_black(side: tuple[int, int]) -> None:
    data = sparse(*side, bits=32, strip=side[1])
    pixels = decode_image(data, max_pixels=MAX_PIXELS, max_side=max(side))
    assert pixels.shape == (side[1], side[0], 3)
    assert not pixels.any()


def pages(kind: int, count: int) -> bytes:
    """Build a raster with additional directories of subfile type `kind`."""
    first = bytearray(sparse(8, 8, strip=8))
    page = struct.pack("<H", 11) + struct.pack("<HHII", 254, 4, 1, kind) + first[10:-4]
    struct.pack_into("<I", first, len(first) - 4, len(first))
    for place in range(count):
        following = len(first) + len(page) + 4 if place < count - 1 else 0
        first += page + struct.pack("<I", following)
    return bytes(first)


@pytest.mark.parametrize(("kind", "count"), [(0, 20_000), (1, 4000), (4, 4000), (5, 4000)])
def test_a_raster_of_countless_pages(kind: int, count: int) -> None:  # 9 s for 450 kB of masks
    data = pages(kind, count)
    assert "directories" in refused(data)
    with pytest.raises(ImageError, match="directories"):
        _ = RasterFile(data).valid
    assert decode_image(pages(kind, 60), max_pixels=64).shape == (8, 8, 3)


def test_a_raster_with_circular_pages() -> None:
    data = bytearray(sparse(8, 8, strip=8))
    struct.pack_into("<I", data, len(data) - 4, 8)
    assert decode_image(bytes(data), max_pixels=64).shape == (8, 8, 3)


def test_a_raster_that_unpacks_to_much_more_than_its_colours() -> None:
    data = rasters.write(np.zeros((300, 200, 200), np.float32), compress="zstd")
    assert len(data) < 60_000
    with pytest.raises(ImageTooLargeError, match="many bytes each"):
        decode_image(data, max_pixels=200 * 200)


def test_metadata_that_cannot_be_complained_of(capfd: pytest.CaptureFixture[str]) -> None:
    data = rasters.write(np.ones((3, 8, 8), np.uint16), tags={"greeting": "good day"})
    assert b"good day" in data
    assert "UTF-8" in refused(data.replace(b"<Item", b"<\xe4tem"))
    decode_image(data.replace(b"<Item", b"<<<<<"), max_pixels=64)
    assert capfd.readouterr().err == ""


def with_metadata(items: int, name: str = "k", band: str = "") -> bytes:
    """A raster with so many items of metadata."""
    text = "".join(f'<Item name="{name}{number}"{band}>v</Item>' for number in range(items))
    content = f"<GDALMetadata>{text}</GDALMetadata>".encode()
    first = sparse(8, 8, strip=8)
    (entries,) = struct.unpack_from("<H", first, 8)
    # Before the last entry (339), behind which the content begins.
    position = 10 + 12 * entries
    entry = struct.pack("<HHII", 42112, 2, len(content), len(first) + 12)
    head = first[:8] + struct.pack("<H", entries + 1) + first[10:position]
    return head + entry + first[position:] + content


@pytest.mark.parametrize("band", ["", ' sample="0"'], ids=["file", "band"])
def test_a_raster_of_countless_metadata_items(band: str) -> None:  # a minute for 100,000
    """GDAL compares each item with all others."""
    for read in (lambda data: refused(data), _refused_info):
        started = time.thread_time()
        message = read(with_metadata(100_000, band=band))
        assert "metadata items" in message
        assert "GDAL_METADATA" in message
        assert time.thread_time() - started < 1
    assert "4 MiB" in refused(with_metadata(2000, name="k" * 2200, band=band))
    assert decode_image(with_metadata(8000, band=band), max_pixels=64).shape == (8, 8, 3)


def test_the_number_of_metadata_items_is_a_limit() -> None:
    few, many = with_metadata(10), with_metadata(11)
    assert decode_image(few, max_pixels=64, max_metadata_items=10).shape == (8, 8, 3)
    assert RasterFile(few, max_metadata_items=10).info is not None
    for read in (
        lambda: decode_image(many, max_pixels=64, max_metadata_items=10),
        lambda: RasterFile(many, max_metadata_items=10).info,
    ):
        with pytest.raises(ImageError, match=r"10 metadata items.*MAX_TIFF_METADATA_ITEMS"):
            read()


def _refused_info(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        _ = RasterFile(data).info
    return caught.value.message


def test_a_raster_cannot_make_gdal_look_elsewhere() -> None:
    """GDAL opens the file named by `OVERVIEW_FILE` when it reads overviews."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        lure = f"/vsicurl/http://127.0.0.1:{listener.getsockname()[1]}/a.tif"
        data = rasters.write(
            np.ones((3, 600, 600), np.uint16), tags={"OVERVIEW_FILE": lure}, tags_in="OVERVIEWS"
        )
        assert lure.encode() in data
        assert decode_image(data, max_pixels=360_000).shape == (600, 600, 3)
        assert RasterFile(data).valid is None
        # Not even on request.
        with RasterFile(data).opened((600, 600)) as opened:
            assert opened._dataset.tags(ns="OVERVIEWS") == {"OVERVIEW_FILE": lure}
            assert opened._dataset.overviews(1) == []
        with pytest.raises(BlockingIOError):
            listener.accept()
