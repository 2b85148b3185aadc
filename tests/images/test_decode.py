"""Decoding of images: formats, colour modes, orientation and limits."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from inference_server.errors import ImageError, ImageTooLargeError
from inference_server.images import decode_image
from inference_server.images.headers import read_header

HEIGHT, WIDTH = 24, 40
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
LOSSLESS = ("PNG", "WEBP", "TIFF", "BMP")


def picture() -> Image.Image:
    """A smooth, asymmetric image."""
    corners = np.array(
        [[[255, 0, 0], [0, 255, 0], [40, 40, 40]], [[0, 0, 255], [255, 255, 0], [255, 255, 255]]],
        np.uint8,
    )
    return Image.fromarray(cv2.resize(corners, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))


def save(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if name == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    if name in ("JPEG", "AVIF"):
        options = {"quality": 95, "subsampling": "4:4:4", **options}
    image.save(buffer, name, **options)
    return buffer.getvalue()


def decode(data: bytes, max_pixels: int = 10_000) -> NDArray[np.uint8]:
    pixels = decode_image(data, max_pixels=max_pixels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert read_header(data).upright_size == pixels.shape[:2]
    return pixels


def difference(pixels: NDArray[np.uint8], expected: Image.Image) -> float:
    wanted = np.asarray(expected.convert("RGB"))
    assert pixels.shape == wanted.shape
    return float(np.abs(pixels.astype(int) - wanted).mean())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str) -> None:
    tolerance = 0 if name in LOSSLESS else 12 if name == "GIF" else 3
    assert difference(decode(save(picture(), name)), picture()) <= tolerance


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for name, modes in {
            "JPEG": "L CMYK YCbCr",
            "PNG": "1 L LA P RGBA",
            "WEBP": "L RGBA",
            "TIFF": "1 L LA P RGBA CMYK",
            "BMP": "1 L P RGBA",
            "GIF": "1 L P",
            "AVIF": "L RGBA",
        }.items()
        for mode in modes.split()
    ],
)
def test_every_colour_mode(name: str, mode: str) -> None:
    source = picture().convert(mode)
    tolerance = 1 if name in LOSSLESS else 12 if name == "GIF" else 5
    assert difference(decode(save(source, name)), source.convert("RGB")) <= tolerance


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_dropped_and_colours_are_kept(name: str) -> None:
    source = picture().convert("RGBA")
    source.putalpha(Image.linear_gradient("L").resize((WIDTH, HEIGHT)))
    assert difference(decode(save(source, name)), picture()) == 0


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 250, 10))])
def test_a_palette_with_transparency(transparency: int | bytes) -> None:
    source = picture().quantize(32)
    data = save(source, "PNG", transparency=transparency)
    assert difference(decode(data), source) == 0


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    tagged = picture()
    tagged.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(tagged)
    assert difference(decode(save(picture(), name, exif=exif)), upright) <= 3


def test_exif_orientation_of_a_compressed_tiff_and_of_a_progressive_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture().transpose(Image.Transpose.ROTATE_270)
    for data in (
        save(picture(), "TIFF", exif=exif, compression="tiff_lzw"),
        save(picture(), "JPEG", exif=exif, progressive=True),
    ):
        assert difference(decode(data), upright) <= 3


def test_exif_orientation_behind_the_pixels_of_a_png() -> None:
    data = save(picture(), "PNG")
    body = b"eXIf" + b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = data[:-12] + chunk + data[-12:]
    assert difference(decode(data), picture().rotate(180)) == 0


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    for name in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert difference(decode(save(picture(), name, exif=exif)), picture()) <= 3


@pytest.mark.parametrize("name", ["PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation_is_used(name: str) -> None:
    frames = [picture(), ImageOps.invert(picture()), picture().rotate(180)]
    data = save(frames[0], name, save_all=True, append_images=frames[1:])
    assert difference(decode(data), picture()) <= 12


def test_a_gif_frame_beyond_its_screen() -> None:
    data = bytearray(save(picture(), "GIF"))
    struct.pack_into("<HH", data, 6, 3, 2)
    assert decode(bytes(data)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_pngs_keep_the_high_bytes(channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, channels), np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    expected = (deep >> 8).astype(np.uint8)
    order = [0, 0, 0] if channels == 1 else [2, 1, 0]  # OpenCV writes BGR
    np.testing.assert_array_equal(decode(data), expected[:, :, order])


def deep_png(values: NDArray[np.uint16]) -> bytes:
    """A 16-bit PNG of grey, RGB or RGBA."""
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]  # OpenCV writes BGR
    return cv2.imencode(".png", values[:, :, order])[1].tobytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("bits", "pedestal"), [(8, 0), (10, 0), (12, 0), (12, 30_000), (14, 0), (11, 2**16 - 2**11)]
)
def test_16_bits_of_a_png_that_use_few_of_them_are_stretched(
    channels: int, bits: int, pedestal: int
) -> None:
    colours = np.asarray(picture()).astype(np.uint16)[:, :, : min(channels, 3)]
    deep = (colours.astype(int) * (2**bits - 1) // 255 + pedestal).astype(np.uint16)
    if channels == 4:
        deep = np.dstack([deep, np.full(deep.shape[:2], 40_000, np.uint16)])
        deep[0] = [0, 65_535, 0, 0]  # transparent, so without a part in the range
    pixels = decode(deep_png(deep))[1:]
    low, high = colours[1:].min(), colours[1:].max()
    wanted = (colours[1:].astype(int) - low) * 255 / (high - low)
    assert np.abs(pixels - wanted).max() <= 2 ** (8 - min(bits, 8)) + 0.5


@pytest.mark.parametrize("value", [0, 900, 65_535])
def test_a_16_bit_png_of_one_value_keeps_the_upper_byte(value: int) -> None:
    deep = np.full((HEIGHT, WIDTH, 3), value, np.uint16)
    assert (decode(deep_png(deep)) == value >> 8).all()


def test_16_bits_in_every_form_of_png() -> None:
    """Interlaced, with chunks that libpng warns about, with an orientation, cut off, damaged."""
    deep = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
    data = deep_png(deep)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))
    turned = chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
    added = data[:33] + profile + turned + chunk(b"tIME", bytes(7)) + data[33:]
    np.testing.assert_array_equal(decode(added), np.rot90((deep >> 8).astype(np.uint8), -1))
    grey = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH, 2), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    with_alpha = data[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 4, 0, 0, 0))
    with_alpha += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    expected = np.repeat((grey[:, :, :1] >> 8).astype(np.uint8), 3, axis=2)
    np.testing.assert_array_equal(decode(with_alpha), expected)
    for broken in (data[: len(data) // 2], data[:200] + bytes(300) + data[500:]):
        with pytest.raises(ImageError):
            decode(broken)


@pytest.mark.parametrize("header", [40, 12])
def test_bmp_with_and_without_a_modern_header(header: int) -> None:
    row = bytes((0, 0, 255, 0, 255, 0)) + bytes(2)
    if header == 12:
        information = struct.pack("<IHHHH", 12, 2, 1, 1, 24)
    else:  # a negative height means that the first row is at the top
        information = struct.pack("<IiiHHIIiiII", 40, 2, -1, 1, 24, 0, len(row), 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 14 + header + 8, 0, 0, 14 + header) + information + row
    assert decode(data).tolist() == [[[255, 0, 0], [0, 255, 0]]]


def test_run_length_bmp() -> None:
    palette = b"".join(bytes((index, 255 - index, 7, 0)) for index in range(256))
    codes = bytes((3, 10, 1, 20, 0, 0, 4, 30, 0, 1))
    header = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, len(codes), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    data = b"BM" + struct.pack("<IHHI", start + len(codes), 0, 0, start) + header + palette + codes
    assert decode(data)[:, :, 2].tolist() == [[30, 30, 30, 30], [10, 10, 10, 20]]


@pytest.mark.parametrize("name", FORMATS)
def test_trailing_data_is_ignored(name: str) -> None:
    data = save(picture(), name)
    trailer = struct.pack(">I4s", 24, b"free") + bytes(16) if name == "AVIF" else b"\xff\xda" * 200
    assert difference(decode(data + trailer), picture()) <= 12


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    data = save(Image.fromarray(noise), name)
    with pytest.raises(ImageError, match=r"^Could not load input image\. Cause: "):
        decode_image(data[: int(len(data) * share)], max_pixels=10_000)


@pytest.mark.parametrize("missing", [2, 3, 50, 5000])
def test_a_jpeg_without_its_end_is_refused(missing: int) -> None:
    """OpenCV alone would fill the missing part with grey."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    data = save(Image.fromarray(noise), "JPEG")
    with pytest.raises(ImageError, match=r"JPEG file is truncated\."):
        decode_image(data[:-missing], max_pixels=100_000)


@pytest.mark.parametrize("name", FORMATS)
def test_the_pixel_limit_is_exact(name: str) -> None:
    data = save(picture(), name)
    assert decode(data, HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ImageTooLargeError, match="INFERENCE_MAX_IMAGE_PIXELS") as caught:
        decode_image(data, max_pixels=HEIGHT * WIDTH - 1)
    assert f"{WIDTH} x {HEIGHT}" in caught.value.message


@pytest.mark.parametrize(
    ("data", "guess"),
    [
        (b"", "empty"),
        (b"\n<!doctype html><p>Not found", "web page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"P6 1 1 255 abc", "no image"),
        (b"\0\0\x01\0\x01\0", "no image"),  # ICO
        (b"\x93NUMPY", "no image"),
    ],
)
def test_other_content_is_refused(data: bytes, guess: str) -> None:
    for refuse in (
        lambda: decode_image(data, max_pixels=10_000),
        lambda: read_header(data).upright_size,
    ):
        with pytest.raises(ImageError, match=guess):
            refuse()


def test_polyglot_images_are_decoded() -> None:
    data = save(picture(), "JPEG") + b"%PDF-1.7 <script>PK\x03\x04"
    assert decode(data).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ImageError, match="web page"):
        decode(b"<html>" + data)


def test_pillows_warnings_do_not_leak() -> None:
    code = """
import io, warnings, sys
from PIL import Image
from inference_server.images import decode_image
buffer = io.BytesIO()
Image.new("RGB", (4, 4)).save(buffer, "TIFF", description="words " * 20)
data = buffer.getvalue()
for position in range(8, len(data)):
    mutated = bytearray(data)
    mutated[position] ^= 0x41
    try:
        decode_image(bytes(mutated), max_pixels=100)
    except Exception as error:
        assert type(error).__module__ == "inference_server.errors", repr(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    assert "Warning" not in done.stderr
