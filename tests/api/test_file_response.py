"""Responses from temporary files: deleted in every case."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_server.api.file_response import FileResponse, within, write_pieces
from inference_server.api.raster_slots import RasterSlots
from inference_server.errors import CapacityError, ImageTooLargeError


@pytest.mark.parametrize("compress", [False, True])
def test_pieces_are_written(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "body"
    write_pieces(path, iter([b"a" * 1000, b"b"]), 1, compress=compress)
    data = path.read_bytes()
    assert (gzip.decompress(data) if compress else data) == b"a" * 1000 + b"b"


def test_pieces_beyond_the_limit_are_not_made(tmp_path: Path) -> None:
    made: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        while len(made) < 9:
            made.append(bytes(300_000))
            yield made[-1]

    with pytest.raises(ImageTooLargeError, match="larger than 1 MiB"):
        write_pieces(tmp_path / "body", pieces(), 1, compress=True)
    assert len(made) == 4


def test_a_file_that_another_writes_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "body"
    written = []

    def write() -> None:
        for number in within(path, range(100), 1):
            with path.open("ab") as file:
                file.write(bytes(300_000))
            written.append(number)

    with pytest.raises(ImageTooLargeError, match="INFERENCE_MAX_RASTER_RESPONSE_MB"):
        write()
    assert written == [0, 1, 2, 3]


@pytest.mark.parametrize("fails", [False, True])
def test_the_file_is_closed_when_it_is_sent_and_when_the_client_has_gone(fails: bool) -> None:
    file = io.BytesIO(bytes(3_000_000))
    sent = 0

    async def read(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))
        if fails and sent > 1_000_000:
            raise OSError

    async def respond() -> None:
        response = await FileResponse.begin(
            read, 3_000_000, media_type="image/tiff", headers={"x-model": "demo"}
        )
        response.file = file
        await response({"type": "http", "method": "POST"}, receive, send)

    if fails:
        with pytest.raises(OSError):
            asyncio.run(respond())
    else:
        asyncio.run(respond())
        assert sent == 3_000_000
    assert file.closed


def test_slots() -> None:
    slots = RasterSlots(1)
    with slots.enter("one"):
        assert len(slots) == 1
        with (
            pytest.raises(CapacityError, match="INFERENCE_MAX_RASTER_REQUESTS") as caught,
            slots.enter("one"),
        ):
            raise AssertionError("there is no slot")
        assert caught.value.full == "rasters"
    with slots.enter("one"):
        assert len(slots) == 1
    assert len(slots) == 0


def test_one_tenant_leaves_slots_to_others() -> None:
    slots = RasterSlots(3, 2)
    with slots.enter("one"), slots.enter("one"):
        with (
            pytest.raises(CapacityError, match="INFERENCE_MAX_RASTER_REQUESTS_PER_KEY"),
            slots.enter("one"),
        ):
            pass
        with slots.enter("other"):
            assert len(slots) == 3
    with slots.enter("one"):
        assert len(slots) == 1
    assert len(slots) == 0
