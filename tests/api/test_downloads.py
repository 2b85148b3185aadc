"""Result files are sent in pieces, at the client's pace."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message

from inference_server.api import responses
from inference_server.api.responses import PiecewiseResponse
from inference_server.errors import StorageError, UnknownJobError
from inference_server.jobs import Output
from inference_server.jobs.task import ResultFile
from tests.api.serving import TIMEOUT, RunningHere, until
from tests.jobs.submitting import submit

SIZE = 64 << 20
"""More than the buffers of both sockets hold."""

KIND = "stored-by-a-test"


def link_to(server: RunningHere, content: bytes) -> tuple[str, str]:
    """Store a job's result; return the job's id and the path of the link to its file."""
    store = server.state.jobs.storage.repository
    job_id = submit(store, "alice", KIND, b"{}")
    claim = store.claim("test", [KIND])
    assert claim is not None
    assert store.finish(claim.lease, Output((ResultFile("a.png", "image/png", content),), 0.1))
    status = store.status(job_id, "alice")
    assert status is not None
    assert status.expires is not None
    return job_id, server.state.jobs.links.path(job_id, "a.png", status.expires)


def test_a_file_of_many_pieces_is_complete(listening: RunningHere) -> None:
    content = random.Random(1).randbytes(3 * responses._PIECE_BYTES + 5)
    _, path = link_to(listening, content)
    answer = listening.get(path, key=None)
    assert answer.status_code == 200
    assert answer.content == content
    assert answer.headers["content-length"] == str(len(content))
    head = listening.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(content))


def test_nothing_is_loaded_for_a_client_that_does_not_read(
    listening: RunningHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, path = link_to(listening, bytes(SIZE))
    jobs = listening.state.jobs
    read, pending, loaded = jobs.piece, set[int](), list[int]()

    async def piece(job: str, name: str, offset: int, size: int) -> bytes | None:
        assert job == job_id
        pending.add(offset)
        found = await read(job, name, offset, size)
        pending.discard(offset)
        loaded.append(len(found or b""))
        return found

    monkeypatch.setattr(jobs, "piece", piece)
    host, port = listening.url.removeprefix("http://").split(":")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(TIMEOUT)
        deaf.connect((host, int(port)))
        deaf.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        until(lambda: loaded)
        # Other requests are answered meanwhile.
        assert listening.get("/livez").status_code == 200
        assert sum(loaded) < SIZE // 2
        assert max(loaded) <= responses._PIECE_BYTES
        received = 0
        while piece_ := deaf.recv(1 << 20):
            received += len(piece_)
    assert received > SIZE
    assert sum(loaded) == SIZE
    assert not pending


def played(
    read: Callable[[int, int], Any], nbytes: int, *, gone_after: int | None = None
) -> list[Message]:
    """Return what a response sends to a client that disconnects after some messages."""
    sent: list[Message] = []

    async def play() -> None:
        gone = asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if len(sent) == gone_after:
                gone.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        response = await PiecewiseResponse.begin(read, nbytes, media_type="image/png", headers={})
        await response({"type": "http", "method": "GET"}, receive, send)

    asyncio.run(play())
    return sent


async def zeros(offset: int, size: int) -> bytes:
    return bytes(min(size, 10 * responses._PIECE_BYTES - offset))


def test_a_disconnect_ends_the_reading() -> None:
    assert len(played(zeros, 10 * responses._PIECE_BYTES)) == 11
    assert len(played(zeros, 10 * responses._PIECE_BYTES, gone_after=4)) == 4


def test_a_file_deleted_meanwhile_is_not_sent_as_complete() -> None:
    async def gone(offset: int, size: int) -> bytes | None:
        return None if offset else bytes(size)

    async def unavailable(offset: int, size: int) -> bytes | None:
        if offset:
            raise StorageError("gone")
        return bytes(size)

    for read in (gone, unavailable):
        sent = played(read, 2 * responses._PIECE_BYTES)
        assert [message.get("more_body") for message in sent] == [None, True]


def test_a_file_deleted_before_the_first_piece() -> None:
    async def gone(offset: int, size: int) -> None:
        return None

    with pytest.raises(UnknownJobError):
        played(gone, 5)
