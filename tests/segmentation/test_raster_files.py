"""Rasters by URL and from a directory: on disk, bounded, and gone afterwards."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from inference_server.errors import (
    CapacityError,
    ImageError,
    ImageTooLargeError,
    InferenceServerError,
    StorageError,
)
from inference_server.images import fetch, file_bytes
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.raster_files import RasterFiles
from inference_server.settings import Settings
from tests.images.conftest import Answer, answering, ok, redirect, serve
from tests.images.rasters import write
from tests.images.test_raster import BANDS
from tests.open_files import Opened, temporary_files

pytestmark = pytest.mark.anyio

MiB = 2**20
DATA = write(BANDS) + os.urandom(3 * MiB)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def rasters(**settings: Any) -> RasterFiles:
    return RasterFiles(Settings(fetch_networks=("127.0.0.1/32",), **settings), Metrics())


async def outcome(files: RasterFiles, answer: Answer, error: type[InferenceServerError]) -> str:
    """Fetch in vain; return the error's message."""
    with temporary_files() as opened:
        async with serve(answer) as server:
            with pytest.raises(error) as caught:
                async with files.by_url("eve", server.url(), Timings()):
                    raise AssertionError
        assert files.nbytes == 0
        assert not opened()
    return caught.value.message


async def test_a_raster_by_url(opened_files: Opened) -> None:
    files = rasters()
    async with (
        serve(answering(ok(DATA))) as server,
        files.by_url("eve", server.url(), Timings()) as source,
    ):
        assert source.digest == hashlib.sha256(DATA).hexdigest()
        assert source.size == (240, 320)
        assert files.nbytes == len(DATA)
        assert len(opened_files()) == 1
    assert files.nbytes == 0
    assert not opened_files()


async def test_it_may_be_larger_than_an_image_and_is_never_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks are written as they arrive."""
    kept = []
    write_all: Callable[[Any, bytes, str], None] = file_bytes.write_all

    def count(file: Any, data: bytes, setting: str) -> None:
        kept.append(len(data))
        write_all(file, data, setting)

    monkeypatch.setattr(fetch, "write_all", count)
    files = rasters(max_image_mb=1)
    async with (
        serve(answering(ok(DATA))) as server,
        files.by_url("eve", server.url(), Timings()) as source,
    ):
        assert source.nbytes == len(DATA)
    assert sum(kept) == len(DATA)
    assert max(kept) < 2 * MiB


async def test_the_size_is_limited() -> None:
    files = rasters(max_raster_upload_mb=3)
    assert "INFERENCE_MAX_RASTER_UPLOAD_MB" in await outcome(
        files, answering(ok(DATA)), ImageTooLargeError
    )
    unannounced = b"HTTP/1.1 200 OK\r\n\r\n" + DATA
    await outcome(files, answering(unannounced), ImageTooLargeError)


async def test_the_storage_is_shared() -> None:
    files = rasters(raster_fetch_storage_mb=5, raster_fetch_tenant_storage_mb=3)
    message = await outcome(files, answering(ok(DATA)), CapacityError)
    assert "INFERENCE_RASTER_FETCH_TENANT_STORAGE_MB" in message
    files = rasters(raster_fetch_storage_mb=5, raster_fetch_tenant_storage_mb=4)
    async with serve(answering(ok(DATA))) as server:
        async with files.by_url("bob", server.url(), Timings()):
            with pytest.raises(CapacityError, match="INFERENCE_RASTER_FETCH_STORAGE_MB"):
                async with files.by_url("eve", server.url(), Timings()):
                    raise AssertionError
        async with files.by_url("eve", server.url(), Timings()):
            assert files.nbytes == len(DATA)


async def test_a_body_that_is_cut_off() -> None:
    await outcome(rasters(), answering(ok(DATA)[:-5]), ImageError)


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    """The guard is that of images: every address is checked, also those of redirects."""
    message = await outcome(rasters(), answering(redirect("http://10.0.0.1/a.tif")), ImageError)
    assert "not on the public internet" in message
    files = RasterFiles(Settings(), Metrics())
    assert "not on the public internet" in await outcome(files, answering(ok(DATA)), ImageError)


async def test_a_fetch_has_a_deadline() -> None:
    async def stall(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await stream.send(ok(DATA)[: 2 * MiB])
        await stream.receive()

    message = await outcome(rasters(raster_fetch_timeout=0.2), stall, ImageError)
    assert "0.2 seconds" in message


async def test_a_cancelled_fetch_leaves_nothing(opened_files: Opened) -> None:
    files = rasters()
    started = anyio.Event()

    async def stall(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await stream.send(ok(DATA)[: 2 * MiB])
        started.set()
        await stream.receive()

    async def run(url: str) -> None:
        async with files.by_url("eve", url, Timings()):
            raise AssertionError

    async with serve(stall) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(run, server.url())
        await started.wait()
        tasks.cancel_scope.cancel()
    assert files.nbytes == 0
    assert not opened_files()


async def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.RawIOBase):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
    message = await outcome(rasters(), answering(ok(DATA)), StorageError)
    assert "temporary storage is full" in message
    assert "INFERENCE_RASTER_FETCH_STORAGE_MB" in message


async def test_a_raster_in_the_directory(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(DATA)
    files = rasters(raster_directory=str(tmp_path))
    async with files.in_directory("a.tif") as source:
        (tmp_path / "a.tif").unlink()
        assert source.digest == hashlib.sha256(DATA).hexdigest()
        with source.reader() as reader:
            assert reader.size == (240, 320)
    with pytest.raises(ImageError, match="no file"):
        async with files.in_directory("a.tif"):
            raise AssertionError
    with pytest.raises(ImageError, match="INFERENCE_RASTER_DIRECTORY"):
        async with rasters().in_directory("a.tif"):
            raise AssertionError
