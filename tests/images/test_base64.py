"""Base64: accepted forms, size limit, and release of the interpreter lock."""

from __future__ import annotations

import base64
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.errors import ImageError, ImageTooLargeError
from inference_server.images import base64 as base64_module
from inference_server.images import decode_base64

DATA = bytes(range(256)) + b"?>"
PLAIN = base64.b64encode(DATA).decode()
URL_SAFE = base64.urlsafe_b64encode(DATA).decode()


@pytest.mark.parametrize(
    "value",
    [
        PLAIN,
        f"data:image/png;base64,{PLAIN}",
        f" DATA:image/jpeg;name=a.jpg;BASE64,\n{PLAIN}",
        f"data:;base64,{PLAIN}",
        f"\n{PLAIN}\n",
        base64.encodebytes(DATA).decode(),
        base64.encodebytes(DATA).decode().replace("\n", "\r\n\t "),
        PLAIN.rstrip("="),
        URL_SAFE,
        URL_SAFE.rstrip("="),
        f"data:image/png;base64,{URL_SAFE}",
    ],
)
def test_every_form(value: str) -> None:
    assert decode_base64(value, max_bytes=len(DATA)) == DATA


def test_text_without_white_space_is_decoded_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(base64_module, "_decode_wrapped")
    for text in (PLAIN, URL_SAFE, PLAIN.rstrip("="), f"data:image/png;base64,{PLAIN}"):
        assert decode_base64(text, max_bytes=len(DATA)) == DATA


def test_both_alphabets_in_one_text() -> None:
    assert decode_base64("AAAA/_+-", max_bytes=6) == base64.b64decode("AAAA//++")


@pytest.mark.parametrize("text", ["/x==", "//==", "AA8=", "AA9="])
def test_unused_bits_of_the_last_character_may_be_any(text: str) -> None:
    assert decode_base64(text, max_bytes=2) == base64.b64decode(text)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("==", "empty"),
        ("data:image/png;base64,", "empty"),
        (f"data:image/png,{PLAIN}", "not in base64"),
        ("https://example.com/image.png", "not valid base64"),
        ("/etc/passwd.", "not valid base64"),
        ("AAAAA", "not valid base64"),
        ("AA==AAAA", "not valid base64"),
        ("AA=AAAA", "not valid base64"),
        ("AAA\x00", "not valid base64"),
        ("ÀÀÀÀ", "not valid base64"),
        ("AAAA\ud800", "not valid base64"),
        (f"data:image/png;base64,data:image/png;base64,{PLAIN}", "not valid base64"),
    ],
)
def test_invalid_base64_is_refused_with_a_remedy(value: str, cause: str) -> None:
    with pytest.raises(ImageError, match=cause) as caught:
        decode_base64(value, max_bytes=10_000)
    assert caught.value.message.startswith("Could not load input image. Cause: ")
    assert "Send the image file in base64" in caught.value.message


@pytest.mark.parametrize("size", range(1, 9))
def test_the_byte_limit_is_exact(size: int) -> None:
    data = bytes(size)
    for value in (base64.b64encode(data).decode(), base64.encodebytes(data).decode()):
        for text in (value, value.rstrip("=\n"), f"data:image/png;base64,{value}"):
            assert decode_base64(text, max_bytes=size) == data
            with pytest.raises(ImageTooLargeError, match="INFERENCE_MAX_IMAGE_MB"):
                decode_base64(text, max_bytes=size - 1)


def test_the_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(base64_module, "_decode")
    with pytest.raises(ImageTooLargeError, match="larger than 1 MiB"):
        decode_base64("A" * 2_000_000, max_bytes=2**20)


@given(st.binary(min_size=1, max_size=100))
def test_round_trip_in_every_alphabet(data: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes):
        assert decode_base64(encode(data).decode(), max_bytes=100) == data


def test_other_threads_run_while_a_large_image_is_decoded() -> None:
    """The decoder releases the interpreter lock."""
    text = "A" * (64 * 2**20)
    beats, done = 0, threading.Event()

    def decode() -> None:
        decode_base64(text, max_bytes=len(text))
        done.set()

    thread = threading.Thread(target=decode)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # no forced switch: a thread that holds the lock keeps it
    try:
        thread.start()
        while not done.is_set():
            beats += 1
            time.sleep(0)
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    assert beats > 20
