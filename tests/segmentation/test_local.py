"""The local service: which steps a request needs, and which the caches save it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference_server.demo.scenes import make_scene
from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Prepared,
    Query,
    RGBImage,
    VisualPrompt,
    queries,
)
from inference_server.engines.catalog import Catalog, ModelKey
from inference_server.engines.device import Compute
from inference_server.engines.model import ConceptModel, LoadedModel, VisualModel
from inference_server.engines.registry import ModelRegistry
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.errors import (
    CapacityError,
    ImageError,
    ImageTooLargeError,
    UnknownImageError,
)
from inference_server.images import ImageFetcher, Picture, TrustedHost, decode_picture
from inference_server.images.fetch import Reserve
from inference_server.masks import upsample_masks
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation import encoder as encoder_module
from inference_server.segmentation import image_loader as image_loader_module
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.types import (
    AutomaticOptions,
    ConceptOptions,
    ImageRef,
    SegmentationResult,
    StoredImage,
    VisualOptions,
)
from inference_server.settings import Settings
from tests.engines.conftest import CPU, random_sam2
from tests.images import rasters

pytestmark = pytest.mark.anyio

SIZE = (40, 60)
"""(height, width) of the images in pixels."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def png(shade: int = 0) -> bytes:
    """A PNG of `SIZE` in one shade of grey."""
    return cv2.imencode(".png", np.full((*SIZE, 3), shade, np.uint8))[1].tobytes()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sent(data: bytes, image_id: str | None = None) -> ImageRef:
    return ImageRef(base64=text_of(data), image_id=image_id)


def named(image_id: str) -> ImageRef:
    return ImageRef(image_id=image_id)


def block(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.float32]:
    """A plane of the image's size, so that the mask is exactly this block."""
    plane = np.full(SIZE, -1, np.float32)
    plane[y0:y1, x0:x1] = 1
    return plane


@dataclass
class Script:
    """An engine that answers from a table and records what it is asked.

    Attributes:
        checkpoint: name of the weights.
        planes: planes of each result, by text or by number of points.
        scores: scores of each result, by text or by number of points.
        encoded: grey value of each encoded image.
        asked: prompts decoded so far.
        multimask: whether each of them asked for three masks.
        side: side of the model's input in pixels.
    """

    checkpoint: str = "scripted"
    planes: dict[object, list[NDArray[np.float32]]] = field(default_factory=dict)
    scores: dict[object, list[float]] = field(default_factory=dict)
    encoded: list[int] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    multimask: list[bool] = field(default_factory=list)

    side: int = 8

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        return Prepared(int(pixels[0, 0, 0]), size or (pixels.shape[0], pixels.shape[1]))

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        self.encoded.extend(image.pixels for image in images)
        return [Embedding(image.size, image.pixels, 1000) for image in images]

    def decode(self, queries: Sequence[Query[Any]]) -> list[Candidates]:
        answers = []
        for query in queries:
            prompt = query.prompt
            self.asked.append(prompt)
            self.multimask.append(query.multimask)
            key = prompt.text if isinstance(prompt, ConceptPrompt) else len(prompt.points)
            planes = np.stack(self.planes.get(key, [block(5, 5, 15, 15)]))
            scores = np.array(self.scores.get(key, [0.9] * len(planes)), np.float32)
            if query.best and query.multimask:
                best = int(scores.argmax())
                planes, scores = planes[best : best + 1], scores[best : best + 1]
            answers.append(Candidates(planes, 0.0, scores, planes * 7))
        return answers


class Models(ModelRegistry):
    """Two scripted models that count as loaded."""

    def __init__(self, settings: Settings, sam3: Any, sam2: Any, device: str) -> None:
        self.catalog = Catalog(settings)
        self.compute = Compute(torch.device(device), torch.float32, torch.float32)
        self._pcs: ConceptModel = LoadedModel("sam3", sam3, self.compute, settings)
        self._pvs: VisualModel = LoadedModel("sam2", sam2, self.compute, settings)

    def is_loaded(self, key: ModelKey) -> bool:
        return True

    async def concept(self, key: ModelKey | None = None) -> ConceptModel:
        return self._pcs

    async def visual(self, key: ModelKey | None = None) -> VisualModel:
        return self._pvs

    def close(self) -> None:
        self._pcs.close()
        self._pvs.close()


class Web(ImageFetcher):
    """A fetcher that serves `pages` and records what is fetched."""

    def __init__(self) -> None:
        super().__init__(max_bytes=1, timeout=1)
        self.pages: dict[str, bytes] = {}
        self.fetched: list[str] = []

    async def fetch(
        self,
        url: str,
        *,
        tenant: str = "",
        reserve: Reserve | None = None,
        trusted: TrustedHost | None = None,
    ) -> bytes:
        self.fetched.append(url)
        if url not in self.pages:
            raise ImageError("Could not load the image: no such page.")
        if reserve is not None:
            reserve(len(self.pages[url]))
        return self.pages[url]


@dataclass
class Bench:
    """A segmentation service, its scripted engines and its fetcher."""

    segmenter: LocalSegmentationService
    sam3: Script
    sam2: Script
    web: Web
    metrics: Metrics
    decoded: list[bytes]

    async def click(
        self,
        image: ImageRef,
        *points: tuple[float, float],
        tenant: str = "ann",
        timings: Timings | None = None,
        **options: Any,
    ) -> SegmentationResult:
        return await self.segmenter.visual(
            tenant,
            image,
            [visual_prompt(*points)],
            VisualOptions(**{"multimask": True, **options}),
            timings=timings or Timings(),
        )

    async def find(
        self, image: ImageRef, *texts: str, tenant: str = "ann", **options: Any
    ) -> SegmentationResult:
        return await self.segmenter.concept(
            tenant,
            image,
            [concept_prompt(text) for text in texts or ("thing",)],
            ConceptOptions(**options),
            timings=Timings(),
        )


def visual_prompt(*points: tuple[float, float]) -> VisualPrompt:
    return VisualPrompt(np.array(points, np.float32).reshape(-1, 2), np.ones(len(points), np.int64))


def concept_prompt(text: str) -> ConceptPrompt:
    return ConceptPrompt(text, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


Make = Callable[..., Bench]


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Creates benches with settings, and closes them."""
    decoded: list[bytes] = []

    def noting(data: bytes, **options: Any) -> Picture:
        decoded.append(data)
        return decode_picture(data, **options)

    monkeypatch.setattr(encoder_module, "decode_picture", noting)
    made: list[Bench] = []

    def bench(sam2: Any = None, device: str = "cpu", **options: Any) -> Bench:
        settings = Settings(**options)
        sam3, web, metrics = Script(), Web(), Metrics()
        sam2 = sam2 or Script()
        segmenter = LocalSegmentationService(
            settings, Models(settings, sam3, sam2, device), web, metrics
        )
        made.append(Bench(segmenter, sam3, sam2, web, metrics, decoded))
        return made[-1]

    yield bench
    for one in made:
        one.segmenter.close()


# Images that are encoded, and images that are not even decoded.


async def test_a_cached_id_needs_no_image(make: Make) -> None:
    bench = make()
    first = await bench.click(sent(png(1), "x"), (1, 1))
    again = await bench.click(named("x"), (1, 1))
    assert [first.image.hit, again.image.hit] == [False, True]
    assert not again.image.mismatch
    assert bench.sam2.encoded == [1]
    assert len(bench.decoded) == 1
    assert again.image.key.image == "id:x"
    assert again.image.model == "sam2/scripted"
    assert again.image.embedding.size == SIZE


async def test_fetched_bytes_count_until_their_request_is_over(make: Make) -> None:
    bench = make(fetch_memory_mb=2, fetch_tenant_memory_mb=1)
    size = 700_000
    for name in "abc":
        bench.web.pages[f"http://{name}/"] = png(1).ljust(size, b"\0")
    stored = await bench.segmenter.read("ann", ImageRef(url="http://a/"), Timings())
    with pytest.raises(CapacityError, match="TENANT_MEMORY"):
        await bench.segmenter.read("ann", ImageRef(url="http://b/"), Timings())
    others = [
        await bench.segmenter.read("bob", ImageRef(url="http://b/"), Timings()),
    ]
    with pytest.raises(CapacityError, match="INFERENCE_FETCH_MEMORY_MB"):
        await bench.segmenter.read("eve", ImageRef(url="http://c/"), Timings())
    # Under an id it stays in the cache of files, which has a limit of its own.
    assert len(others[0].data) == len(stored.data) == size
    del stored, others
    fetched = bench.segmenter.image_loader._fetched

    async def until_released() -> None:
        # A worker thread may refer to an image a moment longer than its request.
        while fetched.nbytes:
            await asyncio.sleep(0.01)

    for name in "abc":
        await until_released()
        await bench.click(ImageRef(url=f"http://{name}/", image_id=name), (1, 1))
    assert bench.segmenter.image_loader.images.nbytes == 3 * size
    await until_released()
    # A fetch that fails, or whose caller leaves, gives back what it had.
    with pytest.raises(ImageError):
        await bench.segmenter.read("ann", ImageRef(url="http://nowhere/"), Timings())
    await bench.segmenter.read("ann", ImageRef(url="http://a/"), Timings())


async def test_with_a_cached_id_nothing_is_fetched_or_decoded(make: Make) -> None:
    bench = make()
    bench.web.pages["http://a/1"] = png(1)
    url = ImageRef(url="http://a/1", image_id="x")
    await bench.click(url, (1, 1))
    bench.web.pages.clear()
    again = await bench.click(url, (1, 1))
    same = await bench.click(sent(png(1), "x"), (1, 1))
    assert again.image.hit
    assert same.image.hit
    assert bench.web.fetched == ["http://a/1"]
    assert bench.decoded == [png(1)]
    # A URL is not fetched again to be compared, so it never counts as a mismatch.
    assert not again.image.mismatch
    assert not same.image.mismatch


async def test_another_image_under_a_cached_id_is_reported_and_not_used(make: Make) -> None:
    bench = make(max_image_mb=1)
    await bench.click(sent(png(1), "x"), (1, 1))
    too_large = ImageRef(base64="A" * (2 << 20), image_id="x")
    no_base64 = ImageRef(base64="%%%", image_id="x")
    for image in (sent(png(2), "x"), sent(b"no image", "x"), no_base64, too_large):
        found = await bench.click(image, (1, 1))
        assert found.image.hit
        assert found.image.mismatch
    assert bench.sam2.encoded == [1]
    # The other engine uses the first image as well.
    found_too = await bench.find(sent(png(2), "x"))
    assert found_too.image.mismatch
    assert bench.sam3.encoded == [1]


async def test_an_unknown_id_without_an_image_is_refused(make: Make) -> None:
    bench = make()
    for ask in (bench.click, bench.find):
        with pytest.raises(UnknownImageError, match="image_id") as caught:
            await ask(named("x"))
        assert caught.value.status == 404
    assert bench.decoded == []


async def test_without_an_id_the_images_digest_is_the_key(make: Make) -> None:
    bench = make()
    first = await bench.click(sent(png(1)), (1, 1))
    again = await bench.click(sent(png(1)), (1, 1))
    other = await bench.click(sent(png(2)), (1, 1))
    digest = hashlib.sha256(png(1)).hexdigest()
    assert first.image.key.image == again.image.key.image == f"sha256:{digest}"
    assert first.image.digest == digest
    assert [first.image.hit, again.image.hit, other.image.hit] == [False, True, False]
    assert bench.sam2.encoded == [1, 2]
    assert len(bench.decoded) == 2
    # A URL is fetched before its digest is known.
    bench.web.pages["http://a/1"] = png(1)
    fetched = await bench.click(ImageRef(url="http://a/1"), (1, 1))
    assert fetched.image.hit
    assert bench.web.fetched == ["http://a/1"]


async def test_the_other_engine_encodes_on_demand_from_the_bytes_kept(make: Make) -> None:
    bench = make()
    bench.web.pages["http://a/1"] = png(1)
    await bench.click(ImageRef(url="http://a/1", image_id="x"), (1, 1))
    found = await bench.find(named("x"))
    assert not found.image.hit
    assert found.image.model == "sam3/scripted"
    assert bench.sam3.encoded == [1]
    assert bench.web.fetched == ["http://a/1"]
    assert (await bench.find(named("x"))).image.hit


async def test_an_evicted_embedding_is_computed_again_from_the_stored_file(
    make: Make,
) -> None:
    bench = make()
    await bench.click(sent(png(1), "x"), (1, 1))
    bench.segmenter.encoder.embeddings.clear()
    found = await bench.click(named("x"), (1, 1))
    assert not found.image.hit
    assert bench.sam2.encoded == [1, 1]


async def test_without_an_image_store_the_image_must_be_sent_to_each_engine(make: Make) -> None:
    bench = make(image_cache_mb=0)
    await bench.click(sent(png(1), "x"), (1, 1))
    assert (await bench.click(named("x"), (1, 1))).image.hit
    with pytest.raises(UnknownImageError):
        await bench.find(named("x"))


async def test_an_image_that_cannot_be_decoded_does_not_occupy_its_id(make: Make) -> None:
    bench = make()
    for _ in range(2):
        with pytest.raises(ImageError):
            await bench.click(sent(b"no image at all", "x"))
    with pytest.raises(UnknownImageError):
        await bench.click(named("x"))
    bench.web.pages["http://a/broken"] = png(1)[:60]
    with pytest.raises(ImageError):
        await bench.click(ImageRef(url="http://a/broken", image_id="x"))
    found = await bench.click(sent(png(1), "x"), (1, 1))
    assert not found.image.mismatch
    assert bench.sam2.encoded == [1]
    assert (await bench.find(named("x"))).image.embedding.size == SIZE


async def test_the_first_of_two_images_under_one_id_is_the_one_for_both_engines(
    make: Make,
) -> None:
    bench = make()
    results = await asyncio.gather(
        *(bench.click(sent(png(shade), "x"), (1, 1)) for shade in (1, 2, 1, 2))
    )
    (shade,) = bench.sam2.encoded
    assert [found.image.mismatch for found in results] == [shade != s for s in (1, 2, 1, 2)]
    await bench.find(named("x"))
    assert bench.sam3.encoded == [shade]


async def test_many_requests_for_one_image_encode_it_once(make: Make) -> None:
    bench = make()
    results = await asyncio.gather(*(bench.click(sent(png(1)), (i, i)) for i in range(12)))
    assert bench.sam2.encoded == [1]
    assert sorted(found.image.hit for found in results) == [False] + [True] * 11
    assert len(bench.sam2.asked) == 12


async def test_limits_are_kept(make: Make) -> None:
    bench = make(max_image_mb=1, max_image_pixels=SIZE[0] * SIZE[1] - 1)
    with pytest.raises(ImageTooLargeError):
        await bench.click(sent(png(1)))
    with pytest.raises(ImageTooLargeError):
        await bench.click(ImageRef(base64="A" * (2 << 20)))
    assert bench.sam2.encoded == []


async def test_a_failed_fetch_is_the_requests_failure(make: Make) -> None:
    bench = make()
    url = ImageRef(url="http://a/none", image_id="x")
    for _ in range(2):
        with pytest.raises(ImageError, match="no such page"):
            await bench.click(url)
    assert len(bench.web.fetched) == 2
    bench.web.pages["http://a/none"] = png(1)
    assert not (await bench.click(url, (1, 1))).image.hit


# Tenants.


async def test_tenants_cannot_name_each_others_images(make: Make) -> None:
    bench = make()
    await bench.click(sent(png(1), "x"), (1, 1), tenant="ann")
    await bench.find(sent(png(1), "x"), tenant="ann")
    for ask in (bench.click, bench.find):
        with pytest.raises(UnknownImageError):
            await ask(named("x"), tenant="bob")
    theirs = await bench.click(sent(png(2), "x"), (1, 1), tenant="bob")
    assert not theirs.image.hit
    assert not theirs.image.mismatch  # a mismatch would reveal another tenant's image
    assert bench.sam2.encoded == [1, 2]
    assert (await bench.click(named("x"), (1, 1), tenant="ann")).image.embedding.features == 1
    assert (await bench.click(named("x"), (1, 1), tenant="bob")).image.embedding.features == 2


async def test_tenants_cannot_probe_for_each_others_images_by_their_content(make: Make) -> None:
    bench = make()
    await bench.click(sent(png(1)), (1, 1), tenant="ann")
    assert not (await bench.click(sent(png(1)), (1, 1), tenant="bob")).image.hit


async def test_tenants_do_not_share_logits(make: Make) -> None:
    bench = make()
    await bench.click(sent(png(1)), (1, 1), tenant="ann", save_logits=True)
    await bench.click(sent(png(1)), (1, 1), (2, 2), tenant="bob", load_logits=True)
    assert bench.sam2.asked[-1].mask_input is None


# Results.


async def test_every_instance_of_every_concept_comes_in_the_prompts_order(make: Make) -> None:
    bench = make()
    bench.sam3.planes = {
        "cat": [block(0, 0, 10, 10), block(20, 0, 30, 10)],
        "dog": [block(0, 20, 10, 30)],
    }
    bench.sam3.scores = {"cat": [0.6, 0.5], "dog": [0.9]}
    found = await bench.find(sent(png()), "cat", "dog", "cat")
    assert [(i.prompt, round(i.score, 3)) for i in found.instances] == [
        (0, 0.6),
        (0, 0.5),
        (1, 0.9),
        (2, 0.6),
        (2, 0.5),
    ]
    assert [i.mask.box for i in found.instances][:3] == [
        (0, 0, 10, 10),
        (20, 0, 30, 10),
        (0, 20, 10, 30),
    ]
    assert all(instance.mask.size == SIZE for instance in found.instances)


async def test_nms_keeps_the_most_confident_mask_across_prompts(make: Make) -> None:
    bench = make()
    bench.sam3.planes = {
        "cat": [block(0, 0, 10, 10), block(30, 0, 40, 10)],
        "pet": [block(0, 0, 10, 9), block(50, 0, 60, 10)],
        "leg": [block(0, 0, 5, 10)],
    }
    bench.sam3.scores = {"cat": [0.7, 0.6], "pet": [0.8, 0.4], "leg": [0.75]}
    prompts = ("cat", "pet", "leg")

    async def kept(threshold: float | None) -> list[tuple[int, float]]:
        found = await bench.find(sent(png()), *prompts, nms_iou_threshold=threshold)
        return [(i.prompt, round(i.score, 3)) for i in found.instances]

    everything = [(0, 0.7), (0, 0.6), (1, 0.8), (1, 0.4), (2, 0.75)]
    assert await kept(None) == everything
    assert await kept(1.0) == everything
    # The IoU of cat and pet is 0.9, of cat and leg 0.5, of pet and leg 45 / 95.
    assert await kept(0.85) == [(0, 0.6), (1, 0.8), (1, 0.4), (2, 0.75)]
    assert await kept(0.4) == [(0, 0.6), (1, 0.8), (1, 0.4)]
    assert await kept(0.0) == [(0, 0.6), (1, 0.8), (1, 0.4)]


async def test_an_empty_mask_is_a_valid_result(make: Make) -> None:
    bench = make()
    bench.sam3.planes = {"none": [block(0, 0, 0, 0)]}
    found = await bench.find(sent(png()), "none", nms_iou_threshold=0.5)
    assert [instance.mask.is_empty for instance in found.instances] == [True]


async def test_the_best_candidate_of_each_prompt_is_the_answer(make: Make) -> None:
    bench = make()
    bench.sam2.planes = {
        1: [block(0, 0, 5, 5), block(0, 0, 9, 9), block(0, 0, 7, 7)],
        2: [block(30, 0, 35, 5), block(30, 0, 39, 9), block(30, 0, 37, 7)],
    }
    bench.sam2.scores = {1: [0.2, 0.8, 0.5], 2: [0.9, 0.8, 0.5]}
    found = await bench.segmenter.visual(
        "ann",
        sent(png()),
        [visual_prompt((1, 1), (2, 2)), visual_prompt((1, 1))],
        VisualOptions(multimask=True),
        timings=Timings(),
    )
    assert [(i.prompt, round(i.score, 3), i.mask.box) for i in found.instances] == [
        (0, 0.9, (30, 0, 35, 5)),
        (1, 0.8, (0, 0, 9, 9)),
    ]
    assert bench.sam2.multimask == [True, True]
    logits = found.instances[1].logits
    assert logits is not None
    assert np.array_equal(logits, block(0, 0, 9, 9) * 7)


async def test_everything_is_found_from_a_grid_of_clicks_on_a_cached_image(make: Make) -> None:
    bench = make()
    bench.sam2.planes = {1: [block(5, 5, 15, 15) * 9, block(20, 5, 40, 30) * 9]}
    bench.sam2.scores = {1: [0.9, 0.95]}
    for cached in (False, True):
        timings = Timings()
        found = await bench.segmenter.automatic(
            "ann", sent(png()), AutomaticOptions(points_per_side=7), timings=timings
        )
        assert found.image.hit == cached
        assert [(i.prompt, round(i.score, 3), i.mask.box) for i in found.instances] == [
            (0, 0.95, (20, 5, 40, 30)),
            (0, 0.9, (5, 5, 15, 15)),
        ]
        assert {"decode-prompts", "masks"} <= set(timings.seconds)
    assert bench.sam2.encoded == [0]
    assert len(bench.sam2.asked) == 2 * 49
    assert {prompt.threshold for prompt in bench.sam2.asked} == {0.8}
    points = np.concatenate([prompt.points for prompt in bench.sam2.asked[:49]])
    assert points.min(0) == pytest.approx([60 / 14, 40 / 14])
    assert points.max(0) == pytest.approx([60 - 60 / 14, 40 - 40 / 14])


async def test_logits_are_saved_and_loaded_only_on_request(make: Make) -> None:
    bench = make()
    image = sent(png(1), "x")
    await bench.click(image, (1, 1))
    await bench.click(image, (1, 1), (2, 2), load_logits=True)
    assert bench.sam2.asked[-1].mask_input is None
    await bench.click(image, (1, 1), save_logits=True)
    await bench.click(image, (1, 1), (2, 2))
    assert bench.sam2.asked[-1].mask_input is None
    for image_again in (image, named("x"), sent(png(1))):
        await bench.click(image_again, (1, 1), (2, 2), load_logits=True)
        mask_input: Any = bench.sam2.asked[-1].mask_input
        assert np.array_equal(mask_input, block(5, 5, 15, 15) * 7)
    await bench.click(image, (1, 1), load_logits=True)
    assert bench.sam2.asked[-1].mask_input is None
    await bench.click(sent(png(2)), (1, 1), (2, 2), load_logits=True)
    assert bench.sam2.asked[-1].mask_input is None


async def test_a_refined_answer_is_kept_under_its_points(make: Make) -> None:
    bench = make()
    bench.sam2.planes = {1: [block(0, 0, 5, 5)], 2: [block(0, 0, 9, 9)]}
    image = sent(png(1))
    for points in ([(1, 1)], [(1, 1), (2, 2)], [(1, 1), (2, 2), (3, 3)]):
        await bench.click(image, *points, save_logits=True, load_logits=True)
    first, second, third = (prompt.mask_input for prompt in bench.sam2.asked)
    assert first is None
    assert np.array_equal(second, block(0, 0, 5, 5) * 7)
    assert np.array_equal(third, block(0, 0, 9, 9) * 7)


@pytest.mark.parametrize("within", [True, False])
async def test_boxes_reach_the_models_cut_at_the_border(make: Make, within: bool) -> None:
    """The one place where boxes are cut, for every API: a model never sees what lies outside."""
    bench, image = make(), sent(png(1))
    box = np.array([50, -500, 900, 20], np.float32)
    options = VisualOptions(save_logits=True, load_logits=True, within=within)
    for points in ([(55, 5)], [(55, 5), (52, 3)]):  # the second one finds the first one's logits
        await bench.segmenter.visual(
            "ann",
            image,
            [replace(visual_prompt(*points), box=box)],
            options,
            timings=Timings(),
        )
    assert [prompt.box.tolist() for prompt in bench.sam2.asked] == [[50, 0, 60, 20]] * 2
    assert [prompt.mask_input is None for prompt in bench.sam2.asked] == [True, False]
    prompt = replace(concept_prompt("thing"), boxes=box[None], labels=np.ones(1, np.int64))
    await bench.segmenter.concept(
        "ann", image, [prompt], ConceptOptions(within=within), timings=Timings()
    )
    assert bench.sam3.asked[-1].boxes.tolist() == [[50, 0, 60, 20]]
    assert box.tolist() == [50, -500, 900, 20]


async def test_logits_do_not_outlive_an_id_that_is_reused(make: Make) -> None:
    bench = make()
    await bench.click(sent(png(1), "x"), (1, 1), save_logits=True)
    bench.segmenter.encoder.embeddings.clear()
    bench.segmenter.image_loader.images.clear()
    found = await bench.click(sent(png(2), "x"), (1, 1), (2, 2), load_logits=True)
    assert not found.image.mismatch
    assert bench.sam2.asked[-1].mask_input is None


async def test_saved_logits_change_the_answer_of_a_real_model(make: Make) -> None:
    engine = VisualEngine(random_sam2(), "random", CPU)
    bench = make(sam2=engine)
    scene = make_scene(3, (80, 64)).image
    image = sent(cv2.imencode(".png", scene[..., ::-1])[1].tobytes())
    one, two = [(20.0, 20.0)], [(20.0, 20.0), (60.0, 40.0)]
    (plain,) = (await bench.click(image, *two)).instances
    (first,) = (await bench.click(image, *one, save_logits=True)).instances
    (refined,) = (await bench.click(image, *two, load_logits=True)).instances
    assert refined.score != plain.score

    (embedding,) = engine.encode([engine.prepare(scene)])
    prompt = visual_prompt(*two)
    (answer,) = engine.decode(
        queries(embedding, [VisualPrompt(prompt.points, prompt.labels, None, first.logits)])
    )
    best = int(answer.scores.argmax())
    assert refined.score == pytest.approx(float(answer.scores[best]), abs=1e-5)
    (mask,) = upsample_masks(answer.planes[best : best + 1], embedding.size)
    assert np.count_nonzero(refined.mask.to_plane() != mask.to_plane()) <= 2


# Timings and metrics.


async def test_a_requests_steps_are_timed(make: Make) -> None:
    bench = make()
    bench.web.pages["http://a/1"] = png(1)
    timings = Timings()
    await bench.click(ImageRef(url="http://a/1", image_id="x"), (1, 1), timings=timings)
    stages = {"fetch", "decode", "queue", "encode", "decode-prompts", "masks"}
    assert set(timings.seconds) == stages
    timings = Timings()
    await bench.click(named("x"), (1, 1), timings=timings)
    assert set(timings.seconds) == {"queue", "decode-prompts", "masks"}


async def test_batches_and_cache_are_counted(make: Make) -> None:
    bench = make()
    await bench.click(sent(png(1)), (1, 1))
    await bench.find(sent(png(1)), "a", "b", "c")
    await bench.find(sent(png(1)))

    def value(name: str, lane: str) -> float | None:
        return bench.metrics.registry.get_sample_value(name, {"lane": lane})

    assert value("inference_batch_size_count", "sam2 encode") == 1
    assert value("inference_batch_size_count", "sam3 encode") == 1
    assert value("inference_batch_size_sum", "sam3 decode") == 4
    cache = bench.segmenter.encoder.embeddings
    assert (cache.misses, cache.hits, cache.nbytes) == (2, 1, 2000)


async def test_many_prompts_keep_their_order_across_threads(make: Make) -> None:
    bench = make(cpu_workers=3)
    bench.sam2.planes = {n: [block(n, 0, n + 1, 2)] for n in range(1, 38)}
    prompts = [visual_prompt(*[(1, 1)] * n) for n in range(1, 38)]
    found = await bench.segmenter.visual(
        "ann", sent(png()), prompts, VisualOptions(), timings=Timings()
    )
    assert [(i.prompt, i.mask.box[0]) for i in found.instances] == [
        (n - 1, n) for n in range(1, 38)
    ]


@dataclass(frozen=True)
class Where:
    """Features that record the device they are on."""

    device: str

    def to(self, device: object) -> Where:
        return Where(str(device))


class OnDevice(Script):
    """An engine whose device cache has room for one of its embeddings only."""

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        self.encoded.extend(image.pixels for image in images)
        return [Embedding(image.size, Where("meta"), 600_000) for image in images]


async def test_beside_a_device_there_is_a_tier_in_host_memory(make: Make) -> None:
    assert make().segmenter.encoder.embeddings.host_max_bytes == 0
    bench = make(sam2=OnDevice(), embedding_cache_mb=1, device="meta")
    for name in ("one", "two"):
        await bench.click(ImageRef(base64=sent(png(1)).base64, image_id=name), (1, 1))
    cache = bench.segmenter.encoder.embeddings
    async with asyncio.timeout(60):
        while not cache.host_nbytes:
            await asyncio.sleep(0.01)
    assert (cache.nbytes, cache.host_nbytes) == (600_000, 600_000)
    found = await bench.click(named("one"), (1, 1))
    assert found.image.hit
    assert found.image.embedding.features == Where("meta")
    assert len(bench.sam2.encoded) == 2


async def test_the_cache_has_the_configured_size(make: Make) -> None:
    assert make().segmenter.encoder.embeddings.max_bytes == 2048 << 20
    assert make(embedding_cache_mb=3).segmenter.encoder.embeddings.max_bytes == 3 << 20


async def test_prompts_are_decoded_while_a_redundant_image_is_compared(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    first, other = sent(png(1), "x"), sent(png(2), "x")
    await bench.click(first, (1, 1))
    loop = asyncio.get_running_loop()
    decoded = asyncio.Event()
    model = await bench.segmenter.models.visual()
    queue = model.queues[1]
    compare, decode = bench.segmenter.image_loader.sent_digest, queue._work

    async def compare_late(image: ImageRef) -> str | None:
        await asyncio.wait_for(decoded.wait(), 60)
        return await compare(image)

    def decode_and_tell(asked: Sequence[Any]) -> Sequence[Any]:
        loop.call_soon_threadsafe(decoded.set)
        return decode(asked)

    monkeypatch.setattr(bench.segmenter.image_loader, "sent_digest", compare_late)
    monkeypatch.setattr(queue, "_work", decode_and_tell)
    for evicted in (False, True):
        for image, differs in ((first, False), (other, True)):
            if evicted:  # the file is left, so that the image is encoded again
                bench.segmenter.encoder.embeddings.clear()
            decoded.clear()
            found = await bench.click(image, (1, 1))
            assert found.image.hit == (not evicted)
            assert found.image.mismatch == differs


# Slow work: it has threads of its own, and ends when nobody waits for it.


async def test_overlays_keep_no_other_image_waiting(make: Make) -> None:
    bench, gate = make(cpu_workers=2), threading.Event()
    stored = StoredImage.of(png(1))

    def draw(pixels: NDArray[np.uint8]) -> tuple[int, ...]:
        gate.wait()
        return pixels.shape

    drawing = [
        asyncio.create_task(bench.segmenter.on_pixels(stored, draw, Timings())) for _ in range(10)
    ]
    try:
        async with asyncio.timeout(60):
            assert len((await bench.click(sent(png(2)), (1, 1))).instances) == 1
        assert not any(task.done() for task in drawing)
    finally:
        gate.set()
    assert await asyncio.gather(*drawing) == [(*SIZE, 3)] * 10


async def test_large_images_and_rasters_keep_no_other_image_waiting(make: Make) -> None:
    bench = make(cpu_workers=2, slow_workers=1, slow_image_pixels=SIZE[0] * SIZE[1])
    gate, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        loop.call_soon_threadsafe(begun.set)
        gate.wait()

    holding = asyncio.create_task(bench.segmenter.in_slow_thread(hold))
    tall = np.zeros((SIZE[0] + 1, SIZE[1], 3), np.uint8)
    large = StoredImage.of(cv2.imencode(".png", tall)[1].tobytes())
    raster = StoredImage.of(rasters.write(np.zeros((1, *SIZE), np.float32)))
    try:
        async with asyncio.timeout(60):
            await begun.wait()
            slow = [
                asyncio.create_task(bench.click(ImageRef(file=file), (1, 1)))
                for file in (large, raster)
            ]
            for grey in range(5):
                await bench.click(sent(png(grey)), (1, 1))
        assert not any(task.done() for task in slow)
    finally:
        gate.set()
    assert [len(result.instances) for result in await asyncio.gather(*slow)] == [1, 1]
    await holding


async def test_nothing_is_drawn_for_a_client_that_left_while_its_image_was_decoded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(slow_workers=1)
    gate, begun = threading.Event(), asyncio.Event()
    drawn: list[NDArray[np.uint8]] = []
    loop = asyncio.get_running_loop()

    def decoding(data: bytes, **options: Any) -> NDArray[np.uint8]:
        loop.call_soon_threadsafe(begun.set)
        gate.wait()
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(image_loader_module, "decode_image", decoding)
    stored = StoredImage.of(png(1))
    task = asyncio.create_task(bench.segmenter.on_pixels(stored, drawn.append, Timings()))
    try:
        async with asyncio.timeout(60):
            await begun.wait()
            task.cancel()
            await asyncio.wait([task])
            gate.set()
            await bench.segmenter.in_slow_thread(lambda: None)
    finally:
        gate.set()
    assert drawn == []


async def test_engines_are_told_who_asks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cache texts by tenant."""
    tenants: list[str] = []
    decode = Script.decode

    def noting(self: Script, queries: Sequence[Query[Any]]) -> list[Candidates]:
        tenants.extend(query.tenant for query in queries)
        return decode(self, queries)

    monkeypatch.setattr(Script, "decode", noting)
    bench = make()
    for tenant in ("ann", "bob"):
        await bench.find(sent(png(1)), "a", "b", tenant=tenant)
    assert tenants == ["ann", "ann", "bob", "bob"]
