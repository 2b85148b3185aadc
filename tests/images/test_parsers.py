"""Property tests of file parsers: any bytes are parsed, or refused with our errors."""

from __future__ import annotations

import base64
import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from inference_server.errors import ImageError, InferenceServerError
from inference_server.images import decode_base64
from inference_server.images.failures import DamagedError
from inference_server.images.headers import _SIGNATURES, read_header
from inference_server.images.jpeg import survey_jpeg
from inference_server.images.tiff import exif_orientation, survey_tiff
from tests.fuzz import fuzzed

_BEGINNINGS = [
    beginning
    for signatures in _SIGNATURES.values()
    for beginning in (signatures if isinstance(signatures, tuple) else (signatures,))
]
_BEGINNINGS += [
    *(b"RIFF\0\0\0\0WEBP" + kind for kind in (b"VP8 ", b"VP8L", b"VP8X", b"junk")),
    *(b"\0\0\0\x1cftyp" + brand for brand in (b"avif", b"avis", b"mif1", b"msf1")),
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"\xff\xd8\xff\xc0\0\x11\x08",
]
sizes = st.sampled_from([0, 1, 2, 8, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])


@fuzzed(400)
@given(st.sampled_from(_BEGINNINGS), st.binary(max_size=200))
def test_any_bytes_behind_a_signature(beginning: bytes, rest: bytes) -> None:
    try:
        header = read_header(beginning + rest)
    except ImageError as error:
        assert error.message.startswith("Could not load input image. Cause: ")  # noqa: PT017
    else:
        assert header.width > 0
        assert header.height > 0
        assert header.pixels >= header.width * header.height
        assert read_header(beginning + rest).upright_size == header.upright_size


@st.composite
def directories(draw: st.DrawFn) -> bytes:
    """Draw a TIFF file with random entries."""
    order = draw(st.sampled_from("<>"))
    tags = [254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 322, 323, 324, 330, 339]
    tags += [34665, 34853, 42112, 42113]
    entry = st.tuples(
        st.sampled_from(tags) | st.integers(0, 65535),
        st.integers(0, 20),
        sizes | st.integers(0, 10),
        sizes | st.integers(0, 300),
    )
    entries = draw(st.lists(entry, max_size=20))
    packed = b"".join(struct.pack(f"{order}HHII", *each) for each in entries)
    mark = b"II" if order == "<" else b"MM"
    start = mark + struct.pack(f"{order}HIH", 42, 8, draw(st.just(len(entries)) | sizes_16))
    return start + packed + struct.pack(f"{order}I", draw(sizes)) + draw(st.binary(max_size=100))


sizes_16 = st.sampled_from([0, 1, 0xFF, 0xFFFF])


@fuzzed(300)
@given(directories())
def test_any_directory_of_a_tiff(data: bytes) -> None:
    with contextlib.suppress(DamagedError, struct.error, ValueError):
        found = survey_tiff(data)
        assert found.width >= 0
        assert found.height >= 0
    # A broken EXIF block is ignored: the image keeps its orientation.
    assert 1 <= exif_orientation(b"Exif\0\0" + data) <= 8


@given(st.binary(max_size=200))
def test_any_bytes_of_exif(data: bytes) -> None:
    for block in (data, b"Exif\0\0" + data, b"II*\0" + data, b"Exif\0\0MM\0*" + data):
        assert 1 <= exif_orientation(block) <= 8


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20)), max_size=20))
def test_any_segments_of_a_jpeg(segments: list[tuple[int, bytes]]) -> None:
    packed = b"".join(
        struct.pack(">BBH", 0xFF, code, len(content) + 2) + content for code, content in segments
    )
    for ending in (b"", b"\xff\xd9"):
        with contextlib.suppress(DamagedError, struct.error):
            found = survey_jpeg(b"\xff\xd8" + packed + ending)
            assert 1 <= found.orientation <= 8


@given(
    st.binary(min_size=1, max_size=300),
    st.sampled_from(["", "data:image/png;base64,", "data:;base64,", " DATA:a/b;c=d;BASE64,\n"]),
    st.sampled_from([base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes]),
    st.booleans(),
)
def test_what_was_encoded_is_decoded(
    data: bytes, prefix: str, encode: object, padded: bool
) -> None:
    text = encode(data).decode()  # type: ignore[operator]
    if not padded:
        text = text.rstrip("=\n")
    assert decode_base64(prefix + text, max_bytes=len(data)) == data


@fuzzed(300)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_data_url(media: str, text: str) -> None:
    with contextlib.suppress(InferenceServerError):
        assert len(decode_base64(f"data:{media},{text}", max_bytes=100)) <= 100
