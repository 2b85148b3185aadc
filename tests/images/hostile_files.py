"""A deterministic corpus of hostile images.

`python -m tests.images.hostile_files DIRECTORY` writes it to files, for use with other programs.
"""

from __future__ import annotations

import io
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_LIES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF)


def _saved(name: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, name, **options)
    return buffer.getvalue()


def _deep() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 65536, (12, 16), np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Build a PNG chunk."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *chunks: bytes, bits: int = 1, colour: int = 0) -> bytes:
    """Build a PNG with chunks between header and end."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def png_of_nothing(width: int, height: int) -> bytes:
    """Build a PNG of black pixels, which takes a thousandth of a bit per pixel."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row * 100) for _ in range(-(-height // 100)))
    return png(width, height, chunk(b"IDAT", rows + packer.flush()))


@cache
def seeds() -> dict[str, bytes]:
    """Return valid files of every format and of every variant with its own decoder path."""
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "green", "blue")]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames}
    return {
        "jpeg": _saved("JPEG"),
        "jpeg-progressive": _saved("JPEG", progressive=True),
        "jpeg-cmyk": _saved("JPEG", "CMYK"),
        "jpeg-grey": _saved("JPEG", "L"),
        "png": _saved("PNG"),
        "png-palette": _saved("PNG", "P", transparency=3),
        "png-alpha": _saved("PNG", "RGBA"),
        "png-deep": _deep(),
        "png-moving": _saved("PNG", **moving),
        "webp": _saved("WEBP"),
        "webp-lossless": _saved("WEBP", lossless=True),
        "webp-moving": _saved("WEBP", **moving),
        "gif": _saved("GIF"),
        "gif-moving": _saved("GIF", **moving),
        "bmp": _saved("BMP"),
        "bmp-palette": _saved("BMP", "P"),
        "tiff": _saved("TIFF"),
        "tiff-lzw": _saved("TIFF", compression="tiff_lzw"),
        "tiff-jpeg": _saved("TIFF", compression="jpeg"),
        "tiff-deflate": _saved("TIFF", compression="tiff_adobe_deflate"),
        "tiff-big": _saved("TIFF", big_tiff=True),
        "avif": _saved("AVIF"),
        "avif-moving": _saved("AVIF", **moving),
    }


def _lies(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Overwrite each four bytes at the beginning, which hold sizes, lengths and offsets."""
    step = 4 if name.startswith(("png", "tiff", "avif")) else 3
    for place in range(4, min(len(data) - 4, 100), step):
        for number, lie in enumerate(_LIES):
            if (place + number) % 3 == 0:  # one third of the combinations suffices
                order = ">" if name.startswith(("png", "jpeg", "avif")) else "<"
                changed = bytearray(data)
                struct.pack_into(f"{order}I", changed, place, lie)
                yield f"{name}-says-{lie:x}-at-{place}", bytes(changed)


def _damages(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Truncate, remove, repeat and overwrite parts."""
    for length in (1, 4, 11, 12, 20, 33, len(data) // 2, len(data) * 9 // 10, len(data) - 1):
        yield f"{name}-first-{length}", data[:length]
    rng = random.Random(name)
    for number in range(8):
        changed = bytearray(data)
        for _ in range(1 + number):
            changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        yield f"{name}-damaged-{number}", bytes(changed)
        start, length = rng.randrange(len(data)), rng.randrange(1, 64)
        piece = data[start : start + length]
        yield f"{name}-without-{number}", data[:start] + data[start + length :]
        yield f"{name}-again-{number}", data[:start] + piece * 3 + data[start:]


def _polyglots() -> Iterator[tuple[str, bytes]]:
    """Return files that are valid in several formats."""
    sound = seeds()
    for one, other in (("jpeg", "png"), ("png", "gif"), ("gif", "bmp"), ("webp", "tiff")):
        yield f"{one}-then-{other}", sound[one] + sound[other]
        yield f"{one}-into-{other}", sound[one][: len(sound[one]) // 2] + sound[other]
    script = b"<script>alert(1)</script>"
    yield "gif-script", b"GIF89a/*" + script + sound["gif"][8:]
    yield "jpeg-in-html", b"<html>" + sound["jpeg"]
    yield "jpeg-then-zip", sound["jpeg"] + b"PK\x03\x04" + bytes(100)
    yield "png-in-text", b"\n" + sound["png"]


def _others() -> Iterator[tuple[str, bytes]]:
    """Return formats that are not supported here and expensive or dangerous elsewhere."""
    yield "nothing", b""
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "svg-packed", zlib.compress(b"<svg/>", wbits=31)
    entities = b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 9))
    yield "xml-bomb", b"<?xml version='1.0'?><!DOCTYPE a [" + entities + b"]><svg>&a8;</svg>"
    yield "pdf", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj"
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    yield "imagemagick", b"push graphic-context\nimage over 0,0 0,0 'url(http://127.0.0.1/)'"
    yield "ico", b"\0\0\x01\0\x01\0\x10\x10" + bytes(40)
    yield "heic", b"\0\0\0\x18ftypheic" + bytes(60)
    yield "mp4", b"\0\0\0\x18ftypmp42" + bytes(60)
    yield "psd", b"8BPS\0\1" + bytes(60)
    yield "jpeg2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60)
    yield "numpy", b"\x93NUMPY\x01\0v\0" + bytes(100)
    yield "pickle", b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    yield "zip", b"PK\x03\x04" + bytes(60)


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Return small files with many pixels or much metadata."""
    yield "png-bomb-10000", png_of_nothing(10_000, 10_000)
    yield "png-bomb-wide", png_of_nothing(2_000_000, 100)
    yield "png-bomb-within", png_of_nothing(5000, 5000)
    yield "png-40000", png(40_000, 40_000, chunk(b"IDAT", zlib.compress(bytes(1000))))
    yield "png-too-little", png(5000, 5000, chunk(b"IDAT", zlib.compress(bytes(1000))))
    much = zlib.compress(bytes(50_000_000), 9)
    row = chunk(b"IDAT", zlib.compress(bytes(8 * 2)))
    for kind, lead in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        yield f"png-{kind.decode()}-bomb", png(8, 8, chunk(kind, lead + much), row)
    yield "png-too-much", png(8, 8, chunk(b"IDAT", much))
    yield "png-chunks", png(8, 8, *[chunk(b"teSt", b"")] * 100_000, row)
    jpeg = seeds()["jpeg"]
    place = jpeg.index(b"\xff\xc0") + 5
    for height, width in ((65_000, 65_000), (65_000, 700), (1, 65_000), (0, 16), (12, 0)):
        sized = jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]
        yield f"jpeg-{width}-{height}", sized
    yield "jpeg-segments", jpeg[:2] + b"\xff\xe0\0\2" * 100_000 + jpeg[2:]
    yield "jpeg-ff", b"\xff\xd8\xff" + b"\xff" * 1_000_000
    last = seeds()["jpeg-progressive"]
    scan = last.rindex(b"\xff\xda")
    yield "jpeg-scans", last[:scan] + last[scan:-2] * 10_000 + last[-2:]
    gif = seeds()["gif"]
    yield "gif-65535", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    image = gif.index(b"\x2c\0\0\0\0")
    yield "gif-comments", gif[:image] + b"\x21\xfe\x01A\0" * 100_000 + gif[image:]
    yield "webp-canvas", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\xff\xff" * 2
    yield "bmp-30000", struct.pack("<2sIHHIIiiHH", b"BM", 100, 0, 0, 54, 40, 30_000, -30_000, 1, 24)
    entries = struct.pack("<HHII", 256, 4, 1, 10**6) + struct.pack("<HHII", 257, 4, 1, 10**6)
    yield "tiff-terapixel", struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + bytes(4)
    yield "tiff-loop", struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + struct.pack("<I", 8)


@cache
def corpus() -> dict[str, bytes]:
    """Return all files by a name that describes the defect."""
    made: dict[str, bytes] = {}
    for name, data in seeds().items():
        made[name] = data
        for spoil in (_lies, _damages):
            made.update(spoil(name, data))
    for others in (_polyglots, _others, _bombs):
        made.update(others())
    return made


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for title, content in corpus().items():
        (directory / title).write_bytes(content)
