"""One image encoding for words and for points: SAM 3 with its visual head."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from inference_server.engines.base import Candidates, Embedding, Prepared, Query
from inference_server.engines.catalog import Catalog, ModelKey
from inference_server.engines.device import Compute
from inference_server.engines.loaded_weights import LoadedWeights, QueueAssembly, Sam3Engines
from inference_server.engines.model import ConceptModel, VisualModel
from inference_server.engines.registry import ModelRegistry
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.types import (
    ConceptOptions,
    EmbeddingTarget,
    ImageRef,
    SegmentationResult,
    VisualOptions,
)
from inference_server.settings import Settings
from tests.segmentation.test_local import (
    Web,
    block,
    concept_prompt,
    named,
    png,
    sent,
    visual_prompt,
)

pytestmark = pytest.mark.anyio

OUTPUT, WORDS, POINTS = 180, 1000, 190
"""Bytes of what the scripted engines make of an image."""


@dataclass(frozen=True)
class Output:
    """What the scripted image encoder makes of an image."""

    value: int


@dataclass
class Scripted:
    """An engine that records what it encodes, and finds one block.

    Attributes:
        nbytes: bytes of its embeddings.
        encoded: pixels or output that it has encoded.
    """

    nbytes: int
    checkpoint: str = "scripted"
    side: int = 16
    encoded: list[Any] = field(default_factory=list)

    def prepare(self, pixels: Any, size: Any = None, extent: Any = None) -> Prepared:
        return Prepared(int(pixels[0, 0, 0]), size or pixels.shape[:2])

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        self.encoded += [image.pixels for image in images]
        return [Embedding(image.size, self.made_of(image), self.nbytes) for image in images]

    def made_of(self, image: Prepared) -> Any:
        assert isinstance(image.pixels, Output), "both sides start from the encoder's output"
        return image.pixels.value

    def decode(self, queries: Sequence[Query[Any]]) -> list[Candidates]:
        plane = block(5, 5, 15, 15)[None]
        score = np.ones(1, np.float32)
        return [Candidates(plane, 0.0, score, plane) for _ in queries]


class Encoder(Scripted):
    """The image encoder."""

    def made_of(self, image: Prepared) -> Any:
        return Output(image.pixels)


class Models(ModelRegistry):
    """A scripted SAM 3 with a visual head."""

    def __init__(self, settings: Settings, engines: Sam3Engines) -> None:
        self.catalog = Catalog(settings)
        self.compute = Compute(torch.device("cpu"), torch.float32, torch.float32)
        self.weights: LoadedWeights = QueueAssembly(self.compute, settings).sam3(engines, None)

    def is_loaded(self, key: ModelKey) -> bool:
        return True

    async def concept(self, key: ModelKey | None = None) -> ConceptModel:
        assert self.weights.concept is not None
        return self.weights.concept

    async def visual(self, key: ModelKey | None = None) -> VisualModel:
        assert self.weights.visual is not None
        return self.weights.visual

    def close(self) -> None:
        for model in self.weights.models:
            model.close()


@dataclass
class Bench:
    """A service on a scripted SAM 3."""

    segmenter: LocalSegmentationService
    encoder: Scripted
    words: Scripted
    points: Scripted

    async def find(self, image: ImageRef) -> SegmentationResult:
        return await self.segmenter.concept(
            "ann", image, [concept_prompt("thing")], ConceptOptions(), timings=Timings()
        )

    async def click(self, image: ImageRef) -> SegmentationResult:
        return await self.segmenter.visual(
            "ann", image, [visual_prompt((1, 1))], VisualOptions(), timings=Timings()
        )

    @property
    def nbytes(self) -> int:
        return self.segmenter.encoder.embeddings.nbytes


@pytest.fixture
def bench() -> Iterator[Bench]:
    settings = Settings()
    encoder, words, points = Encoder(OUTPUT), Scripted(WORDS), Scripted(POINTS)
    models = Models(settings, Sam3Engines(words, points, encoder))
    segmenter = LocalSegmentationService(settings, models, Web(), Metrics())
    yield Bench(segmenter, encoder, words, points)
    segmenter.close()


async def test_a_click_on_an_image_that_was_asked_for_words_encodes_nothing(bench: Bench) -> None:
    words = await bench.find(sent(png(7), "x"))
    assert bench.nbytes == WORDS + OUTPUT
    click = await bench.click(named("x"))
    assert [words.image.hit, click.image.hit] == [False, True]
    assert words.image.model == click.image.model == "sam3/scripted"
    assert bench.encoder.encoded == [7]
    assert bench.points.encoded == [Output(7)]
    assert bench.nbytes == WORDS + POINTS, "nobody needs the encoder's output any more"
    cache = bench.segmenter.encoder.embeddings
    assert (cache.hits, cache.misses) == (1, 1)


async def test_words_after_a_click_encode_nothing(bench: Bench) -> None:
    await bench.click(sent(png(7), "x"))
    assert bench.nbytes == POINTS + OUTPUT
    assert (await bench.find(named("x"))).image.hit
    assert bench.encoder.encoded == [7]
    assert bench.nbytes == WORDS + POINTS


async def test_also_when_the_file_is_not_kept(bench: Bench) -> None:
    await bench.find(sent(png(7), "x"))
    bench.segmenter.image_loader.images.clear()
    assert (await bench.click(named("x"))).image.hit


async def test_also_without_an_id(bench: Bench) -> None:
    found = [await ask(sent(png(7))) for ask in (bench.find, bench.click, bench.find, bench.click)]
    assert [each.image.hit for each in found] == [False, True, True, True]
    assert bench.encoder.encoded == [7]
    cache = bench.segmenter.encoder.embeddings
    assert (cache.hits, cache.misses) == (3, 1)


async def test_words_and_a_click_at_once_encode_once(bench: Bench) -> None:
    await asyncio.gather(bench.find(sent(png(7))), bench.click(sent(png(7))))
    assert bench.encoder.encoded == [7]
    assert bench.nbytes == WORDS + POINTS


async def test_embedding_makes_both_sides(bench: Bench) -> None:
    targets = [EmbeddingTarget("visual"), EmbeddingTarget("concept")]
    done = await bench.segmenter.embed("ann", sent(png(7), "x"), targets, Timings())
    assert done.model == "sam3/scripted"
    assert bench.encoder.encoded == [7]
    assert bench.nbytes == WORDS + POINTS
    assert (await bench.click(named("x"))).image.hit
    assert (await bench.find(named("x"))).image.hit


async def test_a_forgotten_image_leaves_nothing(bench: Bench) -> None:
    await bench.find(sent(png(7), "x"))
    assert await bench.segmenter.forget_image("ann", "x")
    assert bench.nbytes == 0


async def test_images_of_tenants_are_apart(bench: Bench) -> None:
    await bench.find(sent(png(7), "x"))
    await bench.segmenter.visual(
        "bob", sent(png(7), "x"), [visual_prompt((1, 1))], VisualOptions(), timings=Timings()
    )
    assert bench.encoder.encoded == [7, 7]
