"""Uploads of rasters: larger than other forms, on disk, shared among tenants, and deleted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from inference_server.images.raster_source import RasterSource
from tests.api.orthophotos import Orthophoto, orthophoto
from tests.api.pictures import encoded
from tests.api.rasters import TEXT, answer, geotiff, post
from tests.api.serving import BOB, RunningHere, serving, until
from tests.api.test_uploads import PART, connect, head
from tests.open_files import Opened

MiB = 2**20
SQUARES: dict[str, Any] = {"prompt": "yellow square", "tile_size": 384}


@pytest.fixture(scope="module")
def photo() -> Orthophoto:
    """A raster of 1200 x 900 pixels."""
    return orthophoto(4)


@pytest.fixture(scope="module")
def raster(photo: Orthophoto) -> bytes:
    """The raster, not compressed: 3 MiB."""
    return geotiff(photo.image, "EPSG:32633", tiled=True, blockxsize=256, blockysize=256)


@pytest.fixture(scope="module")
def small() -> Iterator[RunningHere]:
    """A server that reads 2 MiB at once, and accepts rasters of 5 MiB and 6 MiB per tenant."""
    with serving(
        max_upload_mb=2, max_raster_upload_mb=5, upload_storage_mb=11, upload_tenant_storage_mb=6
    ) as server:
        yield server


def test_a_raster_may_be_larger_than_an_image(
    small: RunningHere,
    raster: bytes,
    photo: Orthophoto,
    opened_files: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is never in memory as a whole."""
    whole = []
    monkeypatch.setattr(RasterSource, "content", lambda self: whole.append(self))
    found = answer(small, TEXT, raster, **SQUARES)
    assert len(found["features"]) > 0.8 * len(photo.matching("yellow square"))
    until(lambda: small.state.uploads.nbytes == 0)
    until(lambda: not opened_files())
    assert not whole


def test_only_tiff_files_may_be_larger(small: RunningHere) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    for tiles in ("auto", "always", "never"):
        refused = post(small, TEXT, encoded(noise), prompt="circle", tiles=tiles)
        assert refused.status_code == 413, tiles
        assert "gdal_translate -co TILED=YES" in refused.json()["detail"]


def test_a_large_file_is_not_read_as_a_whole(small: RunningHere, raster: bytes) -> None:
    refused = post(small, TEXT, raster, tiles="never", **SQUARES)
    assert refused.status_code == 413
    assert "INFERENCE_MAX_UPLOAD_MB" in refused.json()["detail"]


def test_too_large(small: RunningHere, raster: bytes) -> None:
    refused = post(small, TEXT, raster + bytes(2 * MiB), **SQUARES)
    assert refused.status_code == 413
    assert "INFERENCE_MAX_RASTER_UPLOAD_MB" in refused.json()["detail"]
    until(lambda: small.state.uploads.nbytes == 0)


def test_the_share_of_a_tenant(small: RunningHere, raster: bytes) -> None:
    with connect(small) as slow:
        slow.sendall(head(small, 5 * MiB) + PART + bytes(4 * MiB))
        until(lambda: small.state.uploads.nbytes > 4 * MiB)
        refused = post(small, TEXT, raster, **SQUARES)
        assert refused.status_code == 429
        assert "INFERENCE_UPLOAD_TENANT_STORAGE_MB" in refused.json()["detail"]
        assert post(small, TEXT, raster, key=BOB, **SQUARES).status_code == 200
    until(lambda: small.state.uploads.nbytes == 0)
    assert post(small, TEXT, raster, **SQUARES).status_code == 200


def test_an_upload_has_no_name(small: RunningHere, opened_files: Opened) -> None:
    """So nothing of it is left even if the process is killed."""
    names = set(os.listdir(tempfile.gettempdir()))
    with connect(small) as slow:
        slow.sendall(head(small, 5 * MiB) + PART + bytes(3 * MiB))
        until(lambda: small.state.uploads.nbytes > 3 * MiB)
        until(lambda: len(opened_files()) == 1)
        (file,) = opened_files()
        assert file.endswith("(deleted)")
        assert file.removesuffix(" (deleted)").rsplit("/", 1)[1] not in names
        assert not os.path.exists(file.removesuffix(" (deleted)"))
    until(lambda: not opened_files())


def test_a_large_form_has_more_time() -> None:
    """Than `INFERENCE_BODY_TIMEOUT` and `INFERENCE_REQUEST_TIMEOUT`, which end another one."""
    content = PART + bytes(2 * MiB) + b"\r\n--x--\r\n"
    with (
        serving(max_upload_mb=1, body_timeout=0.3, request_timeout=0.3) as server,
        connect(server) as large,
        connect(server) as other,
    ):
        large.sendall(head(server, len(content)) + content[: MiB // 2])
        until(lambda: server.state.uploads.nbytes > 0)
        other.sendall(head(server, MiB // 2) + PART)
        assert other.recv(12) in (b"HTTP/1.1 408", b"HTTP/1.1 504")
        large.sendall(content[MiB // 2 :])
        assert large.recv(12) == b"HTTP/1.1 422"  # it has no prompt
