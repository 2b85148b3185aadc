"""Files in the object store: put there once per tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import ray

from inference_server.cluster.file_store import FileStore
from inference_server.cluster.messages import SentImage
from inference_server.segmentation.types import StoredImage

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _run(work: Callable[[], Any]) -> Any:
    return work()


async def test_a_file_is_put_once_per_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the time would tell that another tenant has sent the same file."""
    put: list[bytes] = []

    def putting(data: bytes) -> int:
        put.append(data)
        return len(put)

    monkeypatch.setattr(ray, "put", putting)
    store, file = FileStore(3, _run), StoredImage(b"image", "digest")
    attached = [
        (await store.attach(tenant, SentImage("x"), file)).data
        for tenant in ("ann", "ann", "bob", "ann", "bob")
    ]
    assert attached == [1, 1, 2, 1, 2]
    store.discard("ann", "digest")
    assert (await store.attach("bob", SentImage("x"), file)).data == 2
    assert (await store.attach("ann", SentImage("x"), file)).data == 3
    small = StoredImage(b"abc", "other")
    assert (await store.attach("ann", SentImage("x"), small)).data == b"abc"
    assert len(put) == 3
