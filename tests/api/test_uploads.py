"""Uploads: streamed to bounded storage, and deleted in every case."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.pictures import Picture
from tests.api.rasters import AUTOMATIC, PREDICT, TEXT, geotiff, post
from tests.api.serving import ALICE, RunningHere, serving, until
from tests.api.test_form_keys import BOUNDARY, form, part
from tests.open_files import Opened

MiB = 1 << 20


@pytest.fixture(scope="module")
def small() -> Iterator[RunningHere]:
    """A server that accepts 2 MiB per upload and 3 MiB in total."""
    with serving(max_upload_mb=2, max_raster_upload_mb=2, upload_storage_mb=3) as server:
        yield server


def head(server: RunningHere, length: int | None = None) -> bytes:
    """The beginning of a request whose form never ends."""
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return (
        f"POST {TEXT}?api_key={ALICE} HTTP/1.1\r\nhost: x\r\n{size}\r\n"
        "content-type: multipart/form-data; boundary=x\r\n\r\n"
    ).encode()


PART = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.tif"\r\n\r\n'


def connect(server: RunningHere) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    return socket.create_connection((address.hostname, address.port), timeout=60)


def test_an_upload_of_several_megabytes(
    small: RunningHere, picture: Picture, opened_files: Opened
) -> None:
    data = geotiff(picture.scene.image)
    data += bytes(2 * MiB - 20_000 - len(data))
    response = post(small, TEXT, data, prompt="red circle")
    assert response.status_code == 200, response.text
    assert len(response.json()["features"]) == 2
    until(lambda: small.state.uploads.nbytes == 0)
    until(lambda: not opened_files())


def test_too_large(small: RunningHere) -> None:
    response = post(small, TEXT, bytes(2 * MiB), prompt="circle")
    assert response.status_code == 413
    assert "INFERENCE_MAX_UPLOAD_MB" in response.json()["detail"]
    until(lambda: small.state.uploads.nbytes == 0)


def test_too_large_without_an_announced_length(small: RunningHere, opened_files: Opened) -> None:
    with connect(small) as connection:
        connection.sendall(head(small) + f"{len(PART):x}\r\n".encode() + PART + b"\r\n")
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        answered = threading.Event()

        def send() -> None:
            while not answered.is_set():
                try:
                    connection.sendall(chunk)
                except OSError:
                    return

        sender = threading.Thread(target=send)
        sender.start()
        answer = connection.recv(100)
        answered.set()
        sender.join(60)
    assert answer.startswith(b"HTTP/1.1 413")
    until(lambda: small.state.uploads.nbytes == 0)
    until(lambda: not opened_files())


def test_full_storage(small: RunningHere, picture: Picture, opened_files: Opened) -> None:
    """Received bytes count while they are stored; the announced length does not."""
    with connect(small) as slow:
        slow.sendall(head(small, 2 * MiB) + PART + bytes(1_900_000))
        until(lambda: small.state.uploads.nbytes > 1_900_000)
        assert len(opened_files()) == 1
        data = geotiff(picture.scene.image)
        padded = data + bytes(1_500_000 - len(data))
        refused = post(small, TEXT, padded, prompt="circle")
        assert refused.status_code == 429
        assert "INFERENCE_UPLOAD_STORAGE_MB" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        assert post(small, TEXT, picture.data, prompt="circle").status_code == 200
    # The client disconnects in the middle of its upload.
    until(lambda: small.state.uploads.nbytes == 0)
    until(lambda: not opened_files())
    assert post(small, TEXT, padded, prompt="circle").status_code == 200


def test_the_key_is_checked_first(small: RunningHere) -> None:
    with connect(small) as connection:
        request = head(small, 2 * MiB).replace(ALICE.encode(), b"wrong")
        connection.sendall(request)
        assert connection.recv(100).startswith(b"HTTP/1.1 401")
    until(lambda: small.state.uploads.nbytes == 0)


@pytest.mark.parametrize("path", [TEXT, PREDICT, AUTOMATIC])
def test_a_form_that_is_cut_off(
    small: RunningHere, picture: Picture, path: str, opened_files: Opened
) -> None:
    """Fields could be missing, wherever it ends."""
    box = str(list(picture.one("red square").box))
    fields = {"prompt": "red circle", "points_per_side": "2", "boxes": box}
    parts = [part(name, value.encode()) for name, value in fields.items()]
    for whole in (
        form(part("file", picture.data, "a.png"), *parts),
        form(*parts, part("file", picture.data, "a.png")),
    ):
        assert sent(small, path, whole).status_code == 200
        assert sent(small, path, whole[:-2]).status_code == 200, (
            "the last line break may be missing"
        )
        assert sent(small, path, whole + b"\r\nan epilogue").status_code == 200
        for length in (1, 20, len(whole) // 2, *range(len(whole) - 70, len(whole) - 2)):
            refused = sent(small, path, whole[:length])
            assert refused.status_code == 400, (length, refused.text)
            assert "cut off" in refused.json()["detail"]
    until(lambda: not opened_files())
    until(lambda: small.state.uploads.nbytes == 0)


@pytest.mark.parametrize("charset", ["punycode", "undefined", "utf-16", "no-such-charset"])
def test_a_form_is_in_utf_8(small: RunningHere, picture: Picture, charset: str) -> None:
    """Python has codecs of quadratic time, and some that raise errors of their own."""
    body = form(part("prompt", b"red circle"), part("file", picture.data, "a.png"))
    refused = sent(small, TEXT, body, f"; charset={charset}")
    assert refused.status_code == 400, refused.text
    assert f"charset '{charset}' is not supported" in refused.json()["detail"]
    assert sent(small, TEXT, body, "; charset=UTF-8").status_code == 200


def sent(server: RunningHere, path: str, body: bytes, more: str = "") -> httpx.Response:
    kind = f"multipart/form-data; boundary={BOUNDARY}{more}"
    return server.post(path, body, content_type=kind)


def test_forms_without_a_key_have_a_share(picture: Picture) -> None:
    """Without a key before it, the beginning of a form is read, within a share of the storage."""
    key = part("api_key", ALICE.encode())
    file = part("file", picture.data, "a.png")
    with (
        serving(ready=False, upload_storage_mb=1, keyless_body_percent=10) as server,
        ExitStack() as stack,
    ):
        for _ in range(2):
            stranger = stack.enter_context(connect(server))
            stranger.sendall(head(server).replace(f"?api_key={ALICE}".encode(), b""))
            stranger.sendall(f"{50_000:x}\r\n".encode() + PART.ljust(50_000) + b"\r\n")
        until(lambda: server.state.uploads.keyless == 100_000)
        refused = server.post(
            TEXT,
            form(key, part("text", bytes(9_000)), file),
            key=None,
            content_type=f"multipart/form-data; boundary={BOUNDARY}",
        )
        assert refused.status_code == 429
        assert "INFERENCE_KEYLESS_BODY_PERCENT" in refused.json()["detail"]
        # No model is loaded yet; the form was read.
        assert sent(server, TEXT, form(part("text", bytes(500_000)))).status_code == 422
    until(lambda: server.state.uploads.keyless == server.state.uploads.nbytes == 0)


def test_fields_are_bounded(small: RunningHere, picture: Picture) -> None:
    response = post(small, TEXT, picture.data, prompt="x" * (MiB + 1))
    assert response.status_code == 400
    assert "maximum size" in response.json()["detail"]
    many = {f"field{index}": "x" for index in range(65)}
    response = post(small, TEXT, picture.data, prompt="circle", **many)
    assert response.status_code == 400
    assert "Too many fields" in response.json()["detail"]
    until(lambda: small.state.uploads.nbytes == 0)
