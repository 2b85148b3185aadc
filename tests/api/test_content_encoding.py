"""Compressed request bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.api.content_encoding import BodyDecoder, decoder_of
from inference_server.api.middleware.body_budget import BodyBudget, BodyPace
from inference_server.errors import CapacityError, EncodingError, ImageTooLargeError, PromptError
from tests.api.pictures import Picture, click
from tests.api.rasters import AUTOMATIC, PREDICT, TEXT
from tests.api.serving import ALICE, CONCEPT, SAM2_EMBED, VISUAL, RunningHere, serving
from tests.api.test_form_keys import BOUNDARY, form, part
from tests.api.test_openapi_document import FILE, assert_fits
from tests.waiting import until

MiB = 1 << 20
MEMBERS = 3
DOCUMENT = json.loads(FILE.read_bytes())


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def members(data: bytes) -> bytes:
    """Compress as two members, like `cat a.gz b.gz`."""
    middle = len(data) // 2
    return gzip.compress(data[:middle]) + gzip.compress(data[middle:])


FORMATS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("gzip", members),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
]


def decoded(coding: str, *chunks: bytes) -> bytes:
    decoder = decoder_of(coding, 1000)
    assert decoder is not None

    async def decode() -> bytes:
        found = [piece for chunk in chunks async for piece in decoder.pieces(chunk)]
        decoder.finish()
        return b"".join(found)

    return asyncio.run(decode())


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


TEXTS = [b"", b"a", bytes(3 * MiB), random.Random(5).randbytes(300_000)]


@pytest.mark.parametrize(("coding", "compress"), FORMATS)
@pytest.mark.parametrize("data", TEXTS, ids=["empty", "byte", "zeros", "noise"])
def test_decompression_restores_the_body(
    coding: str, compress: Callable[[bytes], bytes], data: bytes
) -> None:
    packed = compress(data)
    for size in (65536, 1000, len(packed)):
        assert decoded(coding, *cut(packed, size)) == data


@given(st.binary(max_size=200), st.integers(1, 7), st.sampled_from(FORMATS))
def test_any_chunks(data: bytes, size: int, how: tuple[str, Callable[[bytes], bytes]]) -> None:
    coding, compress = how
    assert decoded(coding, *cut(compress(data), size)) == data


@pytest.mark.parametrize(("coding", "compress"), FORMATS[2:])
def test_a_body_that_is_cut_off_is_refused(coding: str, compress: Callable[[bytes], bytes]) -> None:
    packed = compress(b"some text that is compressed, and some more of it" * 3)
    for length in range(1, len(packed)):
        with pytest.raises(PromptError, match="cut off"):
            decoded(coding, packed[:length])


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", b'{"image_id": "a"}'),
        ("gzip", zlib.compress(b"{}")),
        ("deflate", gzip.compress(b"{}")),
        ("deflate", zlib.compress(b"{}") + b"more"),
        ("gzip", gzip.compress(b"{}") + b"more"),
        ("gzip", gzip.compress(b"{}")[:-5] + b"12345"),
    ],
    ids=["json", "zlib", "gzip", "more", "more-gzip", "checksum"],
)
def test_damaged_data_is_refused(coding: str, data: bytes) -> None:
    with pytest.raises(PromptError, match=f"not valid {coding}"):
        decoded(coding, data)


def test_encodings_by_name() -> None:
    for plain in ("", "identity", " Identity ,", ","):
        assert decoder_of(plain, 1000) is None
    for known in ("gzip", " GZIP ", "identity, deflate", "x-gzip"):
        assert isinstance(decoder_of(known, 1000), BodyDecoder)
    for unknown in ("br", "zstd", "compress", "gzip, gzip", "gzip, br", "gzip;q=1", "é" * 999):
        with pytest.raises(EncodingError, match="gzip or deflate") as caught:
            decoder_of(unknown, 1000)
        assert len(caught.value.message) < 300


def test_a_bomb_is_not_decoded_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are those of the body and of all bodies together."""
    bomb = gzip.compress(bytes(200 * MiB))
    over = ImageTooLargeError("too large")
    pace = BodyPace(100, 1, 100)
    decode, made = BodyDecoder._decode, list[int]()

    def counted(self: BodyDecoder, data: bytes, most: int) -> tuple[bytes, bytes, bool]:
        found = decode(self, data, most)
        made.append(len(found[0]))
        return found

    monkeypatch.setattr(BodyDecoder, "_decode", counted)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield bomb

    async def receive(room: int, limit: int) -> int:
        budget = BodyBudget(room, 1, pace, "ROOM")
        decoder = decoder_of("gzip", 1000)
        opened = budget.reserve_for(stream(), limit, over, has_key=True, decoder=decoder)
        async with opened as reservation:
            try:
                async for _ in reservation.chunks():
                    assert budget.nbytes <= min(room * MiB, limit)
            except (ImageTooLargeError, CapacityError):
                return sum(made)
        raise AssertionError("all of it was accepted")

    for room, limit in ((100, 4 * MiB), (4, 100 * MiB)):
        made.clear()
        assert asyncio.run(receive(room, limit)) <= 5 * MiB


@pytest.fixture(scope="module")
def small() -> Iterator[RunningHere]:
    """A server that accepts 2 MiB per body and form, 16 MiB in all, and few gzip members."""
    with serving(
        ready=False,
        max_body_mb=2,
        max_upload_mb=2,
        max_raster_upload_mb=2,
        body_memory_mb=16,
        upload_storage_mb=16,
        max_gzip_members=MEMBERS,
    ) as running:
        yield running


def form_of(image: bytes, **fields: str) -> bytes:
    texts = [part(name, value.encode()) for name, value in fields.items()]
    return form(*texts, part("file", image, "a.png"))


BOMB = gzip.compress(bytes(100 * MiB))
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
JSON = {"content-type": "application/json"}
PATHS = [
    *((path, JSON) for path in (CONCEPT, VISUAL, SAM2_EMBED, f"/v2{CONCEPT}")),
    *((path, JSON) for path in ("/v1/sam3-image", "/v1/sam-v2-image", "/v2/sam3-image")),
    *((path, JSON) for path in ("/api/sam2_compatible", "/api/predict")),
    *((path, FORM) for path in (TEXT, PREDICT, AUTOMATIC)),
]


def send(
    server: RunningHere, path: str, body: bytes, coding: str, key: str | None = ALICE, **more: str
) -> httpx.Response:
    headers = {**more, "content-encoding": coding}
    if key is not None:
        headers["x-api-key"] = key
    response = server.http.post(path, content=body, headers=headers)
    assert_fits(DOCUMENT, "post", path, response)
    return response


def same(first: httpx.Response, second: httpx.Response) -> bool:
    def content(response: httpx.Response) -> Any:
        answer = response.json()
        return {name: value for name, value in answer.items() if name != "time"}

    return first.status_code == second.status_code and content(first) == content(second)


@pytest.mark.parametrize(("coding", "compress"), FORMATS)
def test_compressed_requests_get_the_same_responses(
    listening: RunningHere, picture: Picture, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    body = {"image": picture.sent, "prompts": [click(picture.one("blue square"))], "format": "rle"}
    plain = listening.post(VISUAL, body)
    assert plain.status_code == 200
    packed = compress(json.dumps(body).encode())
    assert same(send(listening, VISUAL, packed, coding, **JSON), plain)
    fields = form_of(picture.data, prompt="red circle", output_format="json")
    plain = listening.http.post(TEXT, content=fields, headers={**FORM, "x-api-key": ALICE})
    assert plain.json()["num_detections"] == 2
    assert same(send(listening, TEXT, compress(fields), coding, **FORM), plain)


@pytest.mark.parametrize(("path", "kind"), PATHS)
def test_every_endpoint(small: RunningHere, path: str, kind: dict[str, str]) -> None:
    """An empty body gets the same error whether it is compressed or not."""
    body = b"{}" if kind is JSON else form(part("x", b"y"))
    plain = small.http.post(path, content=body, headers={**kind, "x-api-key": ALICE})
    assert plain.status_code in (400, 422)
    assert same(send(small, path, gzip.compress(body), "gzip", **kind), plain)
    for coding in ("br", "zstd", "gzip, gzip"):
        refused = send(small, path, b"anything", coding, **kind)
        assert refused.status_code == 415
        assert refused.headers["accept-encoding"] == "gzip, deflate"
        assert "gzip or deflate" in refused.text
    for damaged in (body, gzip.compress(body)[:-9]):
        refused = send(small, path, damaged, "gzip", **kind)
        assert refused.status_code in (400, 422)
        assert "not valid gzip" in refused.text


@pytest.mark.parametrize(("path", "kind"), PATHS)
def test_bombs(small: RunningHere, path: str, kind: dict[str, str]) -> None:
    begin = b"" if kind is JSON else form(part("file", b" ", "a.png")).partition(b" \r\n--")[0]
    refused = send(small, path, members(begin) + BOMB, "gzip", **kind)
    is_segmind = path.startswith(("/v1/", "/v2/sam3-image"))
    assert refused.status_code == (400 if is_segmind else 413)
    assert "larger than 2 MiB" in refused.text
    until(lambda: small.state.bodies.nbytes == small.state.uploads.nbytes == 0)


def test_a_key_must_be_at_the_beginning_of_a_compressed_body(small: RunningHere) -> None:
    """Without a key, only the beginning is decompressed."""
    rest = json.dumps(["x" * 1_000_000]).encode()
    first = b'{"api_key": "%b", "a": %b}' % (ALICE.encode(), rest)
    last = b'{"a": %b, "api_key": "%b"}' % (rest, ALICE.encode())
    wrong = first.replace(ALICE.encode(), b"wrong")
    for body, status in ((first, 422), (last, 401), (wrong, 401)):
        answer = send(small, VISUAL, gzip.compress(body), "gzip", None, **JSON)
        assert answer.status_code == status, answer.text
    assert send(small, VISUAL, gzip.compress(last), "gzip", **JSON).status_code == 422
    assert send(small, VISUAL, gzip.compress(b"{}"), "gzip", None, **JSON).status_code == 401


@pytest.mark.parametrize(("path", "kind"), PATHS)
def test_gzip_members_are_limited(small: RunningHere, path: str, kind: dict[str, str]) -> None:
    body = b"{}" if kind is JSON else form(part("x", b"y"))
    for empty, statuses in ((MEMBERS - 1, (400, 422)), (MEMBERS, (400,))):
        packed = gzip.compress(body) + gzip.compress(b"") * empty
        answer = send(small, path, packed, "gzip", **kind)
        assert answer.status_code in statuses
        assert ("INFERENCE_MAX_GZIP_MEMBERS" in answer.text) == (empty == MEMBERS)
        assert "not valid gzip" not in answer.text
