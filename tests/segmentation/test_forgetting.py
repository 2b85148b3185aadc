"""An id is forgotten or given to another image, also while requests about it are in progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from inference_server.errors import ImageError, UnknownImageError
from inference_server.observability.metrics import Timings
from inference_server.segmentation.types import EmbeddingTarget, ImageRef, StoredImage
from tests.segmentation.test_local import Bench, Make, make, named, png, sent

__all__ = ["make"]

pytestmark = pytest.mark.anyio

BOTH = [EmbeddingTarget("visual"), EmbeddingTarget("concept")]
ONE, TWO = png(1), png(2)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def embed(bench: Bench, image: ImageRef, *, overwrite: bool = False) -> str:
    """Encode an image for both engines, and return its digest."""
    found = await bench.segmenter.embed("ann", image, BOTH, Timings(), overwrite=overwrite)
    assert not (overwrite and found.mismatch)
    return found.digest


async def shades(bench: Bench, name: str) -> tuple[int, int]:
    """Grey values of the images that both engines and the store have under an id."""
    clicked = await bench.click(named(name), (1, 1))
    found = await bench.find(named(name))
    return clicked.image.embedding.features, found.image.embedding.features


async def test_a_forgotten_image_is_unknown(make: Make) -> None:
    bench = make()
    await embed(bench, sent(ONE, "x"))
    await embed(bench, sent(TWO, "y"))
    assert await bench.segmenter.forget_image("ann", "x")
    assert not await bench.segmenter.forget_image("ann", "x")
    for asked in (bench.click(named("x"), (1, 1)), bench.find(named("x"))):
        with pytest.raises(UnknownImageError):
            await asked
    assert await shades(bench, "y") == (2, 2)


async def test_another_tenants_image_stays(make: Make) -> None:
    bench = make()
    await embed(bench, sent(ONE, "x"))
    assert not await bench.segmenter.forget_image("bob", "x")
    assert await shades(bench, "x") == (1, 1)


async def test_an_image_that_is_named_by_its_digest(make: Make) -> None:
    bench = make()
    digest = await embed(bench, sent(ONE))
    assert await shades(bench, digest) == (1, 1)
    assert await bench.segmenter.forget_image("ann", digest)
    with pytest.raises(UnknownImageError):
        await bench.click(named(digest), (1, 1))
    assert bench.segmenter.encoder.embeddings.nbytes == 0
    assert bench.segmenter.image_loader.images.nbytes == 0


async def test_saved_clicks_are_forgotten(make: Make) -> None:
    bench = make()
    await bench.click(sent(ONE, "x"), (1, 1), save_logits=True)
    assert bench.segmenter.logits.nbytes > 0
    assert await bench.segmenter.forget_image("ann", "x")
    assert bench.segmenter.logits.nbytes == 0


async def test_an_id_is_given_to_another_image(make: Make) -> None:
    bench = make()
    await embed(bench, sent(ONE, "x"))
    kept = await bench.click(sent(TWO, "x"), (1, 1))
    assert kept.image.mismatch
    assert await embed(bench, sent(TWO, "x"), overwrite=True) == StoredImage.of(TWO).digest
    assert await shades(bench, "x") == (2, 2)
    # It is encoded once per engine, and cached under the id only.
    assert (bench.sam2.encoded, bench.sam3.encoded) == ([1, 2], [1, 2])
    assert bench.segmenter.encoder.embeddings.nbytes == 2000
    assert not (await bench.click(sent(TWO, "x"), (1, 1))).image.mismatch
    # The engine that an embedding is not replaced for encodes the new file.
    await bench.segmenter.embed("ann", sent(ONE, "x"), BOTH[:1], Timings(), overwrite=True)
    assert await shades(bench, "x") == (1, 1)


async def test_the_same_image_again_is_a_hit(make: Make) -> None:
    bench = make()
    await embed(bench, sent(ONE, "x"))
    again = await bench.segmenter.embed("ann", sent(ONE, "x"), BOTH, Timings(), overwrite=True)
    assert again.hit
    assert bench.sam2.encoded == [1]
    assert await shades(bench, "x") == (1, 1)


async def test_an_image_that_is_none_replaces_nothing(make: Make) -> None:
    bench = make()
    await embed(bench, sent(ONE, "x"))
    with pytest.raises(ImageError):
        await embed(bench, sent(b"no image", "x"), overwrite=True)
    assert await shades(bench, "x") == (1, 1)


async def test_a_url_is_fetched_to_replace_an_image(make: Make) -> None:
    bench = make()
    await embed(bench, sent(ONE, "x"))
    bench.web.pages["http://a/b"] = TWO
    await embed(bench, ImageRef(url="http://a/b", image_id="x"), overwrite=True)
    assert bench.web.fetched == ["http://a/b"]
    assert await shades(bench, "x") == (2, 2)


async def test_what_is_pinned_is_used_whatever_the_id_names(make: Make) -> None:
    bench = make()
    pinned = ImageRef(file=StoredImage.of(ONE), image_id="x", pinned=True)
    assert (await bench.click(pinned, (1, 1))).image.embedding.features == 1
    with pytest.raises(UnknownImageError):  # it did not name the image
        await bench.click(named("x"), (1, 1))
    await embed(bench, sent(ONE, "x"))
    assert (await bench.find(pinned)).image.hit
    await embed(bench, sent(TWO, "x"), overwrite=True)
    for found in (await bench.click(pinned, (1, 1)), await bench.find(pinned)):
        assert found.image.embedding.features == 1
        assert not found.image.mismatch
    assert await shades(bench, "x") == (2, 2)


Change = Callable[[Bench], Awaitable[object]]


async def forget(bench: Bench) -> None:
    await bench.segmenter.forget_image("ann", "x")


async def overwrite(bench: Bench) -> None:
    # Only for one engine, so that the other one takes what the id names.
    await bench.segmenter.embed("ann", sent(TWO, "x"), BOTH[:1], Timings(), overwrite=True)


@pytest.mark.parametrize("at", ["load", "encode"])
async def test_an_image_in_progress_does_not_come_back(
    make: Make, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A request about the earlier image loads or encodes it while the id is given away."""
    bench = make()
    reached, go = asyncio.Event(), asyncio.Event()
    loader, encoder = bench.segmenter.image_loader, bench.segmenter.encoder
    owner, name = (loader, "_decode_base64") if at == "load" else (encoder, "_encode_bytes")
    real = getattr(owner, name)

    async def held(*arguments: object) -> object:
        found = await real(*arguments)
        if not reached.is_set():
            reached.set()
            await go.wait()
        return found

    monkeypatch.setattr(owner, name, held)
    early = asyncio.create_task(bench.find(sent(ONE, "x")))
    await reached.wait()
    await overwrite(bench)
    go.set()
    await early
    assert await shades(bench, "x") == (2, 2)


async def test_a_request_in_progress_is_answered_when_its_image_is_forgotten(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    reached, go = asyncio.Event(), asyncio.Event()
    real = bench.segmenter.encoder._encode_bytes

    async def held(*arguments: object) -> object:
        reached.set()
        await go.wait()
        return await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.segmenter.encoder, "_encode_bytes", held)
    early = asyncio.create_task(bench.click(sent(ONE, "x"), (1, 1)))
    await reached.wait()
    await forget(bench)
    go.set()
    assert (await early).image.embedding.features == 1
    with pytest.raises(UnknownImageError):
        await bench.click(named("x"), (1, 1))


@pytest.mark.parametrize("name", ["x", None], ids=["id", "digest"])
@pytest.mark.parametrize("at", ["load", "encode"])
async def test_the_second_engine_does_not_undo_forgetting(
    make: Make, monkeypatch: pytest.MonkeyPatch, at: str, name: str | None
) -> None:
    """An image is forgotten while the first of two engines loads or encodes it."""
    bench = make()
    reached, go = asyncio.Event(), asyncio.Event()
    loader, encoder = bench.segmenter.image_loader, bench.segmenter.encoder
    owner, held_step = (loader, "_decode_base64") if at == "load" else (encoder, "_encode_bytes")
    real = getattr(owner, held_step)

    async def held(*arguments: object) -> object:
        if not reached.is_set():
            reached.set()
            await go.wait()
        return await real(*arguments)

    monkeypatch.setattr(owner, held_step, held)
    digest = StoredImage.of(ONE).digest
    early = asyncio.create_task(embed(bench, sent(ONE, name)))
    await reached.wait()
    await bench.segmenter.forget_image("ann", name or digest)
    go.set()
    assert await early == digest
    assert (bench.sam2.encoded, bench.sam3.encoded) == ([1], [1])
    for asked in (bench.click(named(name or digest), (1, 1)), bench.find(named(name or digest))):
        with pytest.raises(UnknownImageError):
            await asked
    assert encoder.embeddings.nbytes == loader.images.nbytes == 0
    # The next request names it again.
    await embed(bench, sent(ONE, name))
    assert await shades(bench, name or digest) == (1, 1)


async def test_an_image_that_is_embedded_again_meanwhile_is_loaded_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request about an image without an id goes on with the bytes that it has loaded."""
    bench = make()
    reached, go = asyncio.Event(), asyncio.Event()
    loader = bench.segmenter.image_loader
    real = loader._decode_base64
    loads = 0

    async def held(*arguments: object) -> object:
        nonlocal loads
        loads += 1
        if not reached.is_set():
            reached.set()
            await go.wait()
        return await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "_decode_base64", held)
    digest = StoredImage.of(ONE).digest
    early = asyncio.create_task(bench.click(sent(ONE), (1, 1)))
    await reached.wait()
    await bench.segmenter.forget_image("ann", digest)
    await embed(bench, sent(ONE))
    before = loads
    go.set()
    assert (await early).image.embedding.features == 1
    assert loads == before
