"""The host tier: evicted embeddings return, within its limit, with one copy at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from inference_server.engines.base import Embedding
from inference_server.segmentation.cache.embeddings import EmbeddingCache
from inference_server.segmentation.cache.host_tier import HostTier
from inference_server.segmentation.types import CachedEmbedding, ImageKey

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Features:
    """Features that record the device they are on."""

    name: str
    device: str = "gpu"

    def to(self, device: str) -> Features:
        return replace(self, device=device)


class Bus:
    """Copies embeddings between devices and counts; can be blocked by its gate, or fail."""

    def __init__(self) -> None:
        self.to_host = self.to_device = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def down(self, embedding: Embedding) -> Embedding:
        self.to_host += 1
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("the bus is broken")
        return embedding.to("host")

    async def up(self, embedding: Embedding) -> Embedding:
        self.to_device += 1
        await self.gate.wait()
        assert embedding.features.device == "host"
        return embedding.to("gpu")


def key(name: str, checkpoint: str = "sam2/demo") -> ImageKey:
    return ImageKey("tenant", checkpoint, f"id:{name}")


class Encoder:
    """Records what is encoded."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def of(self, name: str, nbytes: int = 10) -> Encoding:
        return Encoding(self, name, nbytes)


@dataclass
class Encoding:
    encoder: Encoder
    name: str
    nbytes: int

    async def __call__(self) -> CachedEmbedding:
        self.encoder.encoded.append(self.name)
        return CachedEmbedding(Embedding((1, 1), Features(self.name), self.nbytes), self.name)


def make(bus: Bus, room: int = 20, host_room: int = 40) -> EmbeddingCache:
    return EmbeddingCache(room, HostTier(host_room, to_host=bus.down, to_device=bus.up))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_evicted_embedding_returns_without_being_encoded() -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus)
    for name in "abc":
        await cache.get_or_create(key(name), encoder.of(name))
    await settle()
    assert (cache.nbytes, cache.host_nbytes, cache.evictions) == (20, 10, 1)
    assert cache.get(key("a")) is None, "it is still in the first tier"
    found = await cache.find(key("a"))
    assert found is not None
    assert found.embedding.features == Features("a", "gpu")
    assert found.digest == "a"
    again, hit = await cache.get_or_create(key("b"), encoder.of("b"))
    assert hit
    assert again.embedding.features == Features("b", "gpu")
    assert encoder.encoded == ["a", "b", "c"]
    assert cache.misses == 3


async def test_a_second_eviction_copies_nothing() -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus, room=10)
    for name in "abab":
        await cache.get_or_create(key(name), encoder.of(name))
        await settle()
    assert (bus.to_host, bus.to_device) == (2, 2)
    assert encoder.encoded == ["a", "b"]


async def test_the_second_tier_is_bounded_to_the_byte() -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus, room=10, host_room=25)
    for name in "abcd":
        await cache.get_or_create(key(name), encoder.of(name))
        await settle()
    assert cache.host_nbytes == 20
    assert await cache.find(key("a")) is None
    assert await cache.find(key("b")) is not None
    await cache.get_or_create(key("large"), encoder.of("large", 26))
    assert await cache.find(key("large")) is None


async def test_concurrent_lookups_copy_an_embedding_back_once() -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus, room=10)
    for name in "ab":
        await cache.get_or_create(key(name), encoder.of(name))
    await settle()
    bus.gate.clear()
    asking = [asyncio.ensure_future(cache.find(key("a"))) for _ in range(5)]
    await settle()
    bus.gate.set()
    found = await asyncio.gather(*asking)
    assert all(entry is found[0] and entry is not None for entry in found)
    assert bus.to_device == 1


async def test_a_lookup_waits_for_a_copy_in_progress() -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus, room=10)
    await cache.get_or_create(key("a"), encoder.of("a"))
    bus.gate.clear()
    await cache.get_or_create(key("b"), encoder.of("b"))
    asking = asyncio.ensure_future(cache.find(key("a")))
    await settle()
    assert not asking.done()
    bus.gate.set()
    assert await asking is not None
    assert encoder.encoded == ["a", "b"]


async def test_after_a_failed_copy_the_image_is_encoded_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus, room=10)
    bus.broken = True
    for name in "ab":
        await cache.get_or_create(key(name), encoder.of(name))
    await settle()
    assert "Could not copy" in caplog.text
    assert await cache.find(key("a")) is None
    bus.broken = False
    await cache.get_or_create(key("a"), encoder.of("a"))
    assert encoder.encoded == ["a", "b", "a"]


async def test_a_failed_copy_is_encoded_for_a_request_that_joined_a_lookup(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus)
    bus.gate.clear()
    for name in "abc":  # a is evicted, and its copy to the host waits at the gate
        await cache.get_or_create(key(name), encoder.of(name))
    await settle()
    looked = asyncio.ensure_future(cache.find(key("a")))
    await settle()
    sent = asyncio.ensure_future(cache.get_or_create(key("a"), encoder.of("a")))
    await settle()
    bus.broken = True
    bus.gate.set()
    assert await looked is None
    found, _ = await sent
    assert found.digest == "a"
    assert encoder.encoded == ["a", "b", "c", "a"]
    assert cache.get(key("a")) is found


async def test_clearing_empties_both_tiers_and_discards_copies_in_progress() -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus, room=10)
    await cache.get_or_create(key("a"), encoder.of("a"))
    await cache.get_or_create(key("b", "sam3/demo"), encoder.of("b"))
    await settle()
    bus.gate.clear()
    await cache.get_or_create(key("c"), encoder.of("c"))  # starts to copy b
    await settle()
    assert bus.to_host == 2
    cache.clear()
    bus.gate.set()
    await settle()
    for each in (key("a"), key("b", "sam3/demo"), key("c")):
        assert await cache.find(each) is None
    assert (cache.nbytes, cache.host_nbytes) == (0, 0)


async def test_a_copy_that_was_cleared_is_not_kept_in_the_place_of_a_later_one() -> None:
    """An id may name another image after a clear."""
    bus, encoder = Bus(), Encoder()
    cache = make(bus, room=10)
    bus.gate.clear()
    for name in "ab":  # a is on its way to the host
        await cache.get_or_create(key(name), encoder.of(name))
    await settle()
    cache.clear()
    for name, create in (("a", encoder.of("later")), ("b", encoder.of("b"))):
        await cache.get_or_create(key(name), create)
    await settle()
    bus.gate.set()
    await settle()
    found = await cache.find(key("a"))
    assert found is not None
    assert found.digest == "later"


async def test_shrink_waits_until_evicted_embeddings_have_left_the_device() -> None:
    bus, encoder = Bus(), Encoder()
    cache = EmbeddingCache(40, HostTier(100, to_host=bus.down, to_device=bus.up))
    for name in "abcd":
        await cache.get_or_create(key(name), encoder.of(name))
    bus.gate.clear()
    shrinking = asyncio.create_task(cache.shrink())
    await settle()
    assert not shrinking.done()
    bus.gate.set()
    await asyncio.wait_for(shrinking, 60)
    assert cache.nbytes == 20
    entry, hit = await cache.get_or_create(key("a"), encoder.of("a"))
    assert hit
    assert entry.embedding.features.device == "gpu"
    assert encoder.encoded == list("abcd"), "an evicted embedding was encoded again"


async def test_discarded_embeddings_leave_both_tiers() -> None:
    bus, encoder = Bus(), Encoder()
    cache = make(bus)
    for name in ("a", "b", "c", "d"):
        await cache.get_or_create(key(name), encoder.of(name))
    await settle()
    assert cache.host_nbytes == 20  # a and b
    bus.gate.clear()
    await cache.get_or_create(key("e"), encoder.of("e"))  # c is being copied
    gone = cache.discard(lambda k: k.image in ("id:a", "id:c", "id:d"))
    assert gone == {"a", "d"}
    bus.gate.set()
    await settle()
    assert (cache.nbytes, cache.host_nbytes) == (10, 10)
    for name in ("a", "c", "d", "b", "e"):
        await cache.get_or_create(key(name), encoder.of(name))
    assert encoder.encoded == [*"abcde", *"acd"]
