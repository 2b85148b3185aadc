"""The embedding cache: exact limits, single-flight per key, independence of concurrent callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

import pytest

from inference_server.engines.base import Embedding
from inference_server.segmentation.cache.embeddings import EmbeddingCache
from inference_server.segmentation.cache.host_tier import HostTier
from inference_server.segmentation.types import CachedEmbedding, ImageKey

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def key(name: str, tenant: str = "tenant", checkpoint: str = "sam2/demo") -> ImageKey:
    return ImageKey(tenant, checkpoint, f"id:{name}")


def entry(nbytes: int, digest: str = "digest") -> CachedEmbedding:
    return CachedEmbedding(Embedding((1, 1), object(), nbytes), digest)


class Maker:
    """Creates embeddings once its gate is open, and counts calls and cancellations."""

    def __init__(self, nbytes: int = 10) -> None:
        self.nbytes = nbytes
        self.calls = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> CachedEmbedding:
        self.calls += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return entry(self.nbytes)


def making(nbytes: int) -> Callable[[], Awaitable[CachedEmbedding]]:
    maker = Maker(nbytes)
    maker.gate.set()
    return maker


async def fill(cache: EmbeddingCache, **sizes: int) -> None:
    for name, nbytes in sizes.items():
        await cache.get_or_create(key(name), making(nbytes))


def kept(cache: EmbeddingCache, names: Iterable[str]) -> str:
    """The names that are cached; does not count as a use."""
    return "".join(name for name in names if key(name) in cache)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_computed_embedding_is_found_again() -> None:
    cache = EmbeddingCache(100)
    maker = Maker()
    maker.gate.set()
    made, hit = await cache.get_or_create(key("a"), maker)
    assert not hit
    again, hit = await cache.get_or_create(key("a"), maker)
    assert hit
    assert again is made
    assert cache.get(key("a")) is made
    assert cache.get(key("b")) is None
    assert maker.calls == 1
    assert (len(cache), cache.nbytes, cache.max_bytes) == (1, 10, 100)


async def test_the_bound_is_exact_to_the_byte() -> None:
    cache = EmbeddingCache(100)
    await fill(cache, a=60, b=40)
    assert cache.nbytes == 100
    assert kept(cache, "ab") == "ab"
    assert cache.evictions == 0
    await fill(cache, c=1)
    assert kept(cache, "abc") == "bc"
    assert cache.nbytes == 41
    assert cache.evictions == 1
    await fill(cache, d=100)
    assert kept(cache, "abcd") == "d"
    assert cache.nbytes == 100
    assert cache.evictions == 3


async def test_the_least_recently_used_goes_first() -> None:
    cache = EmbeddingCache(30)
    await fill(cache, a=10, b=10, c=10)
    assert cache.get(key("a")) is not None
    await fill(cache, b=10)  # a hit of `get_or_create` counts as a use
    await fill(cache, d=10)
    assert kept(cache, "abcd") == "abd"
    await fill(cache, e=10)
    assert kept(cache, "abcde") == "bde"


@pytest.mark.parametrize(("room", "nbytes"), [(100, 101), (0, 1), (0, 10**12)])
async def test_an_embedding_larger_than_the_cache_is_returned_and_not_cached(
    room: int, nbytes: int
) -> None:
    cache = EmbeddingCache(room)
    if room:
        await fill(cache, small=room)
    for _ in range(2):
        made, hit = await cache.get_or_create(key("large"), making(nbytes))
        assert made.embedding.nbytes == nbytes
        assert not hit
    assert cache.get(key("large")) is None
    assert cache.nbytes == room
    assert kept(cache, ["small"]) == ("small" if room else "")
    assert cache.evictions == 0


@pytest.mark.parametrize("nbytes", [10, 1000], ids=["kept", "too large to keep"])
async def test_concurrent_callers_share_one_computation(nbytes: int) -> None:
    cache = EmbeddingCache(100)
    maker = Maker(nbytes)
    callers = [asyncio.create_task(cache.get_or_create(key("a"), maker)) for _ in range(20)]
    await turns()
    maker.gate.set()
    results = await asyncio.gather(*callers)
    assert maker.calls == 1
    assert len({id(made) for made, _ in results}) == 1
    assert sorted(hit for _, hit in results) == [False] + [True] * 19
    assert (cache.misses, cache.hits) == (1, 19)


async def test_different_keys_are_computed_separately() -> None:
    cache = EmbeddingCache(100)
    maker = Maker()
    keys = [key("a"), key("b"), key("a", tenant="other"), key("a", checkpoint="sam3/demo")]
    callers = [asyncio.create_task(cache.get_or_create(k, maker)) for k in keys]
    await turns()
    assert maker.calls == 4
    maker.gate.set()
    assert [hit for _, hit in await asyncio.gather(*callers)] == [False] * 4
    assert len(cache) == 4


async def test_a_failure_reaches_everybody_and_is_not_remembered() -> None:
    cache = EmbeddingCache(100)
    maker = Maker()
    maker.failure = ValueError("no image")
    callers = [asyncio.create_task(cache.get_or_create(key("a"), maker)) for _ in range(5)]
    await turns()
    maker.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert results == [maker.failure] * 5
    assert maker.calls == 1
    assert len(cache) == 0
    maker.failure = None
    _, hit = await cache.get_or_create(key("a"), maker)
    assert not hit
    assert maker.calls == 2


@pytest.mark.parametrize("leaving", [[0], [3], [0, 1, 2, 3]], ids=["the first", "one", "most"])
async def test_cancelled_callers_do_not_affect_the_others(leaving: list[int]) -> None:
    cache = EmbeddingCache(100)
    maker = Maker()
    callers = [asyncio.create_task(cache.get_or_create(key("a"), maker)) for _ in range(5)]
    await turns()
    for index in leaving:
        callers[index].cancel()
    await turns()
    maker.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    for index, result in enumerate(results):
        if index in leaving:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert isinstance(result, tuple)
            assert result[0].embedding.nbytes == 10
    assert (maker.calls, maker.cancelled) == (1, 0)
    assert len(cache) == 1


async def test_the_work_is_cancelled_with_its_last_caller_and_restarts_for_the_next() -> None:
    cache = EmbeddingCache(100)
    maker = Maker()
    callers = [asyncio.create_task(cache.get_or_create(key("a"), maker)) for _ in range(3)]
    await turns()
    for caller in callers:
        caller.cancel()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await turns()
    assert (maker.calls, maker.cancelled) == (1, 1)
    assert len(cache) == 0
    maker.gate.set()
    _, hit = await cache.get_or_create(key("a"), maker)
    assert not hit
    assert maker.calls == 2
    assert len(cache) == 1


async def test_a_caller_after_the_last_cancelled_one_gets_a_new_computation() -> None:
    cache = EmbeddingCache(100)
    maker = Maker()
    leaver = asyncio.create_task(cache.get_or_create(key("a"), maker))
    await turns()
    leaver.cancel()
    comer = asyncio.create_task(cache.get_or_create(key("a"), maker))
    await turns()
    maker.gate.set()
    made, _ = await asyncio.wait_for(comer, 60)
    assert made.embedding.nbytes == 10
    assert leaver.cancelled()
    assert cache.get(key("a")) is made


async def test_cancelling_before_the_work_begins_leaves_no_flight() -> None:
    cache = EmbeddingCache(100)
    maker = Maker()
    caller = asyncio.create_task(cache.get_or_create(key("a"), maker))
    await asyncio.sleep(0)  # the task of the flight has not started yet
    caller.cancel()
    await turns()
    assert caller.cancelled()
    assert cache._flights == {}
    maker.gate.set()
    await cache.get_or_create(key("a"), maker)
    assert len(cache) == 1


async def test_finished_flights_are_removed() -> None:
    cache = EmbeddingCache(100)
    await fill(cache, a=10, b=1000)
    with pytest.raises(ValueError, match="no"):
        await cache.get_or_create(key("c"), failing)
    assert cache._flights == {}


async def failing() -> CachedEmbedding:
    raise ValueError("no")


async def test_tenants_and_checkpoints_are_apart() -> None:
    cache = EmbeddingCache(100)
    await fill(cache, a=10)
    assert cache.get(key("a", tenant="other")) is None
    assert cache.get(key("a", checkpoint="sam3/demo")) is None
    assert cache.get(ImageKey("tenant", "sam2/demo", "sha256:a")) is None


async def test_hits_and_misses_are_counted() -> None:
    cache = EmbeddingCache(100)
    await fill(cache, a=10)
    await fill(cache, a=10)
    cache.get(key("a"))
    cache.get(key("b"))  # `get` counts no miss, because its caller goes on to `get_or_create`
    assert (cache.hits, cache.misses) == (2, 1)


async def test_clearing_removes_every_checkpoints_embeddings() -> None:
    cache = EmbeddingCache(100)
    await fill(cache, a=10, b=10)
    await cache.get_or_create(key("a", checkpoint="sam3/demo"), making(10))
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)


async def test_an_embedding_computed_during_clear_is_returned_and_not_cached() -> None:
    cache = EmbeddingCache(100)
    old, new = Maker(), Maker()
    waiting = [asyncio.create_task(cache.get_or_create(key("a"), old)) for _ in range(2)]
    await turns()
    cache.clear()
    # A later caller does not share a flight that began before.
    later = asyncio.create_task(cache.get_or_create(key("a"), new))
    await turns()
    assert (old.calls, new.calls) == (1, 1)
    old.gate.set()
    results = await asyncio.gather(*waiting)
    assert [shared for _, shared in results] == [False, True]
    assert len(cache) == 0
    new.gate.set()
    kept_one, shared = await later
    assert not shared
    assert cache.get(key("a")) is kept_one


async def test_what_is_cleared_before_its_first_step_is_made_and_handed_out() -> None:
    """`DELETE /models` between the request for an embedding and the beginning of its making."""
    cache = EmbeddingCache(100)
    maker = Maker()
    waiting = asyncio.create_task(cache.get_or_create(key("a"), maker))
    await asyncio.sleep(0)  # it has asked; what makes the embedding has not had its turn
    assert maker.calls == 0
    cache.clear()
    maker.gate.set()
    made, shared = await waiting
    assert (made.digest, shared, maker.calls) == ("digest", False, 1)
    assert len(cache) == 0


async def test_callers_can_be_cancelled_after_clear() -> None:
    cache = EmbeddingCache(100)
    maker = Maker()
    leaver = asyncio.create_task(cache.get_or_create(key("a"), maker))
    await turns()
    cache.clear()
    leaver.cancel()
    await turns()
    assert maker.cancelled == 1


# Out of memory.


async def test_shrinking_drops_the_older_half_and_keeps_no_more_until_it_is_cleared() -> None:
    cache = EmbeddingCache(100)
    await fill(cache, a=20, b=20, c=20, d=20)
    cache.get(key("a"))
    await cache.shrink()
    assert kept(cache, "abcd") == "ad", "the least recently used were not evicted first"
    assert (cache.nbytes, cache.max_bytes) == (40, 40)
    await fill(cache, e=20)
    assert kept(cache, "ade") == "ae", "the order of use was lost"
    cache.clear()
    assert cache.max_bytes == 100


async def test_shrink_never_reduces_the_limit_to_nothing() -> None:
    cache = EmbeddingCache(160)
    for _ in range(9):
        await cache.shrink()
    assert cache.max_bytes == 10
    await fill(cache, a=10)
    assert kept(cache, "a") == "a"


def window(name: str) -> ImageKey:
    return replace(key(name), window=True)


async def test_windows_evict_one_another_beyond_their_share() -> None:
    cache = EmbeddingCache(100, window_percent=30)
    await fill(cache, a=10, b=10, c=10)
    for name in "uvwxyz":
        await cache.get_or_create(window(name), making(10))
        assert cache.window_nbytes <= 30
    assert kept(cache, "abc") == "abc"
    assert [name for name in "uvwxyz" if window(name) in cache] == ["x", "y", "z"]
    assert cache.evictions == 3


async def test_a_raster_displaces_no_more_than_its_share_of_a_full_cache() -> None:
    cache = EmbeddingCache(100, window_percent=30)
    await fill(cache, **dict.fromkeys("abcdefghij", 10))
    for number in range(50):
        await cache.get_or_create(window(str(number)), making(10))
    assert kept(cache, "abcdefghij") == "defghij"
    assert cache.nbytes == 100
    await fill(cache, k=10)  # images displace windows and images alike, the least recently used
    assert kept(cache, "defghijk") == "efghijk"


async def test_a_window_larger_than_the_share_is_not_cached() -> None:
    cache = EmbeddingCache(100, window_percent=30)
    made, hit = await cache.get_or_create(window("a"), making(31))
    assert (made.embedding.nbytes, hit) == (31, False)
    cache.put(window("b"), entry(31))
    assert len(cache) == 0
    none = EmbeddingCache(100, window_percent=0)
    none.put(window("a"), entry(1))
    assert len(none) == 0


async def test_the_share_follows_the_limit() -> None:
    cache = EmbeddingCache(100, window_percent=30)
    for name in "uvw":
        await cache.get_or_create(window(name), making(10))
    await fill(cache, **dict.fromkeys("abcdefg", 10))
    await cache.shrink()
    assert cache.max_bytes == 50
    assert cache.window_nbytes == 0  # they were the least recently used
    for name in "uvw":
        await cache.get_or_create(window(name), making(10))
    assert cache.window_nbytes == 10
    cache.discard(lambda each: each.window)
    assert cache.window_nbytes == 0
    cache.clear()
    for name in "uvw":
        await cache.get_or_create(window(name), making(10))
    assert cache.window_nbytes == 30


async def test_evicted_windows_do_not_move_to_the_host() -> None:
    moved: list[Embedding] = []

    async def to_host(embedding: Embedding) -> Embedding:
        moved.append(embedding)
        return embedding

    host = HostTier(1000, to_host=to_host, to_device=to_host)
    cache = EmbeddingCache(100, host, window_percent=30)
    for name in "uvwxyz":
        await cache.get_or_create(window(name), making(10))
    await host.settle()
    assert moved == []
    await fill(cache, **dict.fromkeys("abcdefghijk", 10))
    await host.settle()
    assert len(moved) == 1  # of the images, the least recently used one
