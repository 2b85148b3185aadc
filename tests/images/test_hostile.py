"""Small files with valid headers that would be expensive to decode.

Times and sizes in comments are those of plain Pillow or OpenCV.
"""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference_server.errors import ImageError, ImageTooLargeError, InferenceServerError
from inference_server.images import decode_base64, decode_image
from inference_server.images.headers import read_header
from inference_server.images.raster_file import RasterFile
from tests.fuzz import fuzzed
from tests.images import rasters

MAX_PIXELS = 50_000_000


@pytest.fixture(autouse=True)
def _stay_within_bounds() -> Iterator[None]:
    """Limit the additional memory of each test in this module."""
    peak = _peak_mib()
    yield
    assert _peak_mib() - peak < 300


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def save(name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    """Build a little-endian TIFF directory; entries are tag, type, count, and value or offset."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + packed + bytes(4)


def overlapping_directory() -> bytes:
    """Build a megabyte that unpacks to a gigabyte: a thousand entries share the same bytes."""
    entries = [(1000 + tag, 7, 1_000_000, 8) for tag in range(1000)]
    return directory((256, 4, 1, 8), (257, 4, 1, 8), *entries) + bytes(1_000_000)


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def progressive_scans(count: int) -> bytes:
    """Build a progressive JPEG that repeats its last scan."""
    data = save("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def refused(data: bytes, error: type[InferenceServerError] = ImageError) -> str:
    with pytest.raises(error) as caught:
        decode_image(data, max_pixels=MAX_PIXELS)
    return caught.value.message


@pytest.fixture
def _no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(cv2, "imdecode", fail)
    monkeypatch.setattr(Image.Image, "load", fail)


def _sized(name: str, write: Callable[[bytearray], None]) -> bytes:
    data = bytearray(save(name))
    write(data)
    return bytes(data)


def _gif_beside_its_screen() -> bytes:
    """The first image begins at the right edge of the largest screen."""
    image = b"," + struct.pack("<4HB", 65_000, 0, 60_000, 1, 0)
    return b"GIF89a" + struct.pack("<HHBBB", 65_000, 1, 0, 0, 0) + image


@pytest.mark.usefixtures("_no_decoding")
@pytest.mark.parametrize(
    "data",
    [
        png(40_000, 40_000, png_chunk(b"IDAT", b"")),
        _sized(
            "JPEG",
            lambda data: struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 65_000, 65_000),
        ),
        _sized("GIF", lambda data: struct.pack_into("<HH", data, 6, 65_000, 65_000)),
        _sized("BMP", lambda data: struct.pack_into("<ii", data, 18, 30_000, -30_000)),
        _sized("WEBP", lambda data: struct.pack_into("<HH", data, 26, 16_383, 16_383)),
        directory((256, 4, 1, 100_000), (257, 4, 1, 100_000)),
        # An animated WebP with a large canvas and small frames.
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xfe\x3f\0" * 2,
    ],
    ids=["png", "jpeg", "gif", "bmp", "webp", "tiff", "animated-webp"],
)
def test_the_size_is_checked_before_decoding(data: bytes) -> None:
    assert "INFERENCE_MAX_IMAGE_PIXELS" in refused(data, ImageTooLargeError)
    height, width = read_header(data).upright_size
    assert height * width > MAX_PIXELS


@pytest.mark.usefixtures("_no_decoding")
@pytest.mark.parametrize(
    "data",
    [
        png(1, 2_000_000, png_chunk(b"IDAT", b"")),
        png(2_000_000, 1, png_chunk(b"IDAT", b"")),
        _sized("BMP", lambda data: struct.pack_into("<ii", data, 18, 1, -2_000_000)),
        _sized("BMP", lambda data: struct.pack_into("<ii", data, 18, 2_000_000, 1)),
        directory((256, 4, 1, 1), (257, 4, 1, 2_000_000)),
        directory((256, 4, 1, 2_000_000), (257, 4, 1, 1)),
        _gif_beside_its_screen(),
    ],
    ids=["png-tall", "png-wide", "bmp-tall", "bmp-wide", "tiff-tall", "tiff-wide", "gif"],
)
def test_a_long_side_is_refused_before_any_pixel_is_decoded(data: bytes) -> None:
    """Of few pixels, but with memory per row or column: 1.5 GB for 1 x 2,000,000."""
    header = read_header(data)
    assert header.pixels <= MAX_PIXELS
    message = refused(data, ImageTooLargeError)
    assert f"{header.width:,} x {header.height:,} pixels" in message
    assert "65,536 per side" in message
    assert "INFERENCE_MAX_IMAGE_SIDE" in message


def test_the_longest_side_is_decoded() -> None:
    for width, height in ((1, 65_536), (65_536, 1)):
        rows = zlib.compress(bytes(height * (1 + -(-width // 8))))
        data = png(width, height, png_chunk(b"IDAT", rows))
        assert decode_image(data, max_pixels=MAX_PIXELS).shape == (height, width, 3)
        with pytest.raises(ImageTooLargeError):
            decode_image(data, max_pixels=MAX_PIXELS, max_side=65_535)


def test_a_bomb_within_the_limit_is_decoded() -> None:
    rows = zlib.compress(bytes(1000 * (1 + 1000 // 8)))
    data = png(1000, 1000, png_chunk(b"IDAT", rows))
    assert len(data) < 1000
    assert decode_image(data, max_pixels=1_000_000).shape == (1000, 1000, 3)


def test_a_tiny_tiff_with_an_enormous_tile() -> None:  # 1.6 GiB and 6 s for 10 x 10 pixels
    tile = [(322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 8), (325, 4, 1, 8)]
    bare = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 4, 1, 8), (259, 4, 1, 8), (262, 4, 1, 1)]
    assert "tiles" in refused(directory(*bare, *tile), ImageTooLargeError)


def test_a_tiny_tiff_with_an_enormous_strip_is_taken_by_its_height() -> None:
    strip = [(273, 4, 1, 200), (277, 4, 1, 1), (278, 4, 1, 2**32 - 1), (279, 4, 1, 100)]
    bare = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1)]
    data = directory(*bare, *strip).ljust(300, b"\x7f")
    assert decode_image(data, max_pixels=100).shape == (10, 10, 3)


def test_tiff_directories_that_overlap() -> None:  # a gigabyte per megabyte
    assert "overlap" in refused(overlapping_directory())


@pytest.mark.parametrize("tag", [34665, 34853, 40965])
def test_tiff_subdirectories_that_overlap(tag: int) -> None:
    nested = overlapping_directory()
    bare = directory((256, 4, 1, 8), (257, 4, 1, 8), (tag, 4, 1, 50))
    assert len(bare) == 50
    shifted = bytearray(nested[8:])
    assert "overlap" in refused(bare + bytes(shifted))


def test_tiff_directories_without_end() -> None:
    entries = [(1000 + tag, 3, 1, 0) for tag in range(5000)]
    assert "entries" in refused(directory(*entries))
    assert "values" in refused(directory((273, 4, 1_000_000, 8)) + bytes(4_000_000))


def test_exif_that_overlaps_is_not_read() -> None:  # a gigabyte per megabyte, when opened
    exif = b"Exif\0\0" + overlapping_directory()
    jpeg = save("JPEG")
    segments = b"".join(
        segment(0xE1, b"Exif\0\0" + exif[start : start + 65_000])
        for start in range(0, len(exif), 65_000)
    )
    # Without JFIF's density, Pillow reads it from the EXIF block.
    jpeg = b"\xff\xd8" + segments + jpeg[4 + struct.unpack_from(">H", jpeg, 4)[0] :]
    # Pillow parses the block when it writes AVIF, so write a placeholder and replace it afterwards.
    harmless = directory((256, 4, 1, 8)).ljust(len(exif) - 6, b"?")
    avif = save("AVIF", exif=harmless).replace(harmless, exif[6:])
    for data in (jpeg, save("PNG", exif=exif), save("WEBP", exif=exif), avif):
        assert len(data) > 1_000_000
        assert decode_image(data, max_pixels=MAX_PIXELS).shape == (12, 16, 3)


def test_a_jpeg_of_countless_segments() -> None:  # 24 s for 4 MB
    jpeg = save("JPEG")
    flood = segment(0xE0, b"") * 1_000_000
    assert "segments" in refused(jpeg[:2] + flood + jpeg[2:])


def test_a_jpeg_with_much_between_its_segments() -> None:
    jpeg = save("JPEG")
    for junk in (b"A", b"\xff", b"\xff\0"):
        data = jpeg[:2] + segment(0xE0, b"") + junk * 4_000_000 + jpeg[2:]
        assert read_header(data).upright_size == (12, 16)
    assert "segments" in refused(jpeg[:2] + b"\xff\x01" * 4_000_000 + jpeg[2:])


def test_a_progressive_jpeg_of_countless_scans() -> None:  # each scan visits every pixel
    assert decode_image(progressive_scans(40), max_pixels=MAX_PIXELS).shape == (12, 16, 3)
    assert "scans" in refused(progressive_scans(100_000))


def test_a_jpeg_that_names_two_sizes() -> None:
    jpeg = save("JPEG")
    frame = jpeg.index(b"\xff\xc0")
    larger = bytearray(jpeg[frame : frame + 19])
    struct.pack_into(">HH", larger, 5, 60_000, 60_000)
    for first, second in ((b"", bytes(larger)), (bytes(larger), b"")):
        data = jpeg[:frame] + first + jpeg[frame : frame + 19] + second + jpeg[frame + 19 :]
        refused(data, InferenceServerError)


def test_a_png_of_countless_chunks() -> None:  # 37 s for 6 MB
    data = save("PNG")
    for kind, place in ((b"teSt", 33), (b"IDAT", data.index(b"IDAT") - 4)):
        flood = png_chunk(kind, b"") * 500_000
        assert "chunks" in refused(data[:place] + flood + data[place:])


def test_a_png_that_names_two_sizes() -> None:
    again = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0))
    assert "contradictory sizes" in refused(
        png(8, 8, again, png_chunk(b"IDAT", zlib.compress(bytes(16))))
    )


def test_a_png_with_much_compressed_text() -> None:
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))
    data = save("PNG")
    refused(data[:33] + text * 300 + data[33:])


def test_a_gif_of_countless_comments() -> None:  # 220 s for 5 MB
    data = save("GIF")
    image = data.index(b"\x2c\0\0\0\0")
    flood = b"\x21\xfe\x01A\0" * 1_000_000
    assert "blocks" in refused(data[:image] + flood + data[image:])


def test_a_webp_of_countless_chunks() -> None:
    data = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\x0f\0\0" * 2
    assert "chunks" in refused(data + b"junk\0\0\0\0" * 500_000)


def test_an_avif_of_countless_boxes() -> None:
    data = save("AVIF")
    assert "structure" in refused(data + struct.pack(">I4s", 8, b"free") * 100_000)
    refused(data + struct.pack(">I4s", 4, b"free"))


def test_a_run_length_bmp_that_skips_gigabytes() -> None:  # 12 GB in Pillow
    codes = bytes((0, 2, 255, 255)) * 1000
    header = struct.pack("<IiiHHIIiiII", 40, 65_536, 1, 1, 8, 1, len(codes), 0, 0, 1, 0)
    data = b"BM" + struct.pack("<IHHI", 58 + len(codes), 0, 0, 58) + header + bytes(4) + codes
    assert decode_image(data, max_pixels=MAX_PIXELS).shape == (1, 65_536, 3)


def test_zero_width_or_height_is_refused() -> None:
    for data in (png(0, 8), png(8, 0), directory((256, 4, 1, 0), (257, 4, 1, 8))):
        assert "pixels" in refused(data)


SEEDS = [
    *(save(name) for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")),
    save("JPEG", progressive=True),
    save("WEBP", lossless=True),
    save("WEBP", save_all=True, append_images=[Image.new("RGB", (16, 12))]),
    save("PNG", save_all=True, append_images=[Image.new("RGB", (16, 12))]),
    save("TIFF", compression="tiff_lzw"),
    save("TIFF", compression="jpeg"),
    save("TIFF", big_tiff=True),
]
NOISE = np.random.default_rng(0).integers(1, 200, (5, 40, 50))
RASTERS = [
    rasters.write(NOISE.astype(np.uint16), nodata=7, crs="EPSG:3857"),
    rasters.write(NOISE[:3].astype(np.uint16), mask=NOISE[3] > 50, compress="deflate", predictor=2),
    rasters.write(NOISE.astype(np.float32), compress="deflate", predictor=3, interleave="band"),
    rasters.write(NOISE[:1].astype(np.float64), tiled=True, blockxsize=16, blockysize=16),
    rasters.write(NOISE[:3].astype(np.uint8), compress="lerc"),
    rasters.write(NOISE.astype(np.int16), compress="zstd", BIGTIFF="YES", tags={"some": "words"}),
    rasters.write(NOISE[:3].astype(np.uint8), compress="jpeg", photometric="ycbcr", nodata=0),
    rasters.write(NOISE[:2].astype(np.uint16), compress="lzw", alpha="yes", ENDIANNESS="BIG"),
    rasters.write(NOISE[:3].astype(np.uint16), driver="COG", overview_count=1, blocksize=128),
]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Draw a valid file with some bytes overwritten, removed, repeated or inserted."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        # Half of the changes are near the beginning, where the structure is.
        place = draw(st.integers(0, min(len(data), draw(st.sampled_from([100, 10_000])))))
        length = draw(st.integers(0, 8))
        piece = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\1"]),
                st.just(bytes(data[place : place + 4 * length])),
            )
        )
        data[place : place + length] = piece
    return bytes(data)


@fuzzed(300)
@given(st.one_of(mutated(SEEDS), mutated(RASTERS)))
def test_damaged_files_raise_nothing_but_our_errors(data: bytes) -> None:
    message = None
    valid = None
    try:
        pixels = decode_image(data, max_pixels=1_000_000)
        valid = RasterFile(data).valid
    except InferenceServerError as error:
        message = error.message
    if message is None:
        assert pixels.shape[:2] == read_header(data).upright_size
        assert pixels.size <= 3_000_000
        assert valid is None or valid.shape == pixels.shape[:2]
    else:
        assert message.startswith("Could not load input image. Cause: ")
        assert "0x" not in message


@fuzzed(200)
@given(st.text(max_size=60))
def test_any_text_as_base64_raises_nothing_but_our_errors(text: str) -> None:
    with contextlib.suppress(InferenceServerError):
        assert len(decode_base64(text, max_bytes=40)) <= 40
