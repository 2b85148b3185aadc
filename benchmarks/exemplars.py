"""Exemplars encoded in one image and used in another, compared with their own image."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from benchmarks.overlap import iou
from benchmarks.report import Cell, Table
from inference_server.demo.scenes import Scene, make_scene
from inference_server.demo.shapes import COLORS, SHAPES
from inference_server.images.window import Window, WindowPixels
from inference_server.masks import Mask
from inference_server.observability.metrics import Timings
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.tiling import with_exemplars
from inference_server.segmentation.tiling.run import show
from inference_server.segmentation.types import ConceptOptions, ConceptPrompt, Instance

_SIDE = 256
_MATCH = 0.5
"""Minimum IoU of a found and a true shape."""


@dataclass(slots=True)
class Counts:
    """Shapes found, wrong objects, and shapes missed."""

    hits: int = 0
    wrong: int = 0
    missed: int = 0

    def add(self, found: list[Instance], true: list[Mask]) -> None:
        """Compare the objects of one image with the shapes of the exemplar's kind."""
        left = list(true)
        for instance in found:
            match = next((each for each in left if iou(instance.mask, each) >= _MATCH), None)
            if match is None:
                self.wrong += 1
            else:
                self.hits += 1
                left = [each for each in left if each is not match]
        self.missed += len(left)

    def row(self, way: str) -> dict[str, Cell]:
        """The counts as a row of a table."""
        f1 = 2 * self.hits / max(1, 2 * self.hits + self.wrong + self.missed)
        return {
            "way": way,
            "F1": f1,
            "found": self.hits,
            "wrong": self.wrong,
            "missed": self.missed,
        }


class SceneSource:
    """A scene as a raster of one window.

    Args:
        scene: the scene.
    """

    def __init__(self, scene: Scene) -> None:
        self._image = scene.image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image.shape[0], self._image.shape[1]

    def has_data(self, window: Window) -> bool:
        """All pixels have data."""
        return True

    def read(self, window: Window, max_side: int | None = None) -> WindowPixels:
        """Read a window."""
        return WindowPixels(np.ascontiguousarray(self._image[window.slices]))


def measure(segmenter: LocalSegmentationService, loop: asyncio.Runner, pairs: int) -> Table:
    """Find the kind of an exemplar in its own image and in another one.

    Args:
        segmenter: the service, with the demo SAM 3.
        loop: runs it.
        pairs: number of pairs of images.
    """
    rng = np.random.default_rng(0)
    own, other, words = Counts(), Counts(), Counts()
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    window = Window(0, 0, _SIDE, _SIDE)

    async def find(scene: Scene, prompt: ConceptPrompt) -> list[Instance]:
        shown = await show(segmenter, SceneSource(scene), window)
        result = await segmenter.concept(
            "bench", shown.image, [prompt], ConceptOptions(), timings=Timings()
        )
        return result.instances

    async def encoded(scene: Scene, prompt: ConceptPrompt) -> ConceptPrompt:
        (made,) = await with_exemplars(
            segmenter, "bench", SceneSource(scene), [prompt], _SIDE, timings=Timings()
        )
        return made

    for number in range(pairs):
        shapes = tuple(map(str, rng.choice(SHAPES, 2, replace=False)))
        colors = tuple(map(str, rng.choice(list(COLORS), 2, replace=False)))
        first, second = (
            make_scene(seed, (_SIDE, _SIDE), count=(3, 6), shapes=shapes, colors=colors)
            for seed in (number, number + 5000)
        )
        item = first.objects[int(rng.integers(len(first.objects)))]
        kind = f"{item.color} {item.shape}"
        prompt = ConceptPrompt(None, np.array([item.box], np.float32), np.ones(1, np.int64))
        made = loop.run(encoded(first, prompt))
        here, there = (
            [Mask.from_plane(each.mask) for each in scene.matching(kind)]
            for scene in (first, second)
        )
        own.add(loop.run(find(first, prompt)), here)
        other.add(loop.run(find(second, made)), there)
        words.add(loop.run(find(second, ConceptPrompt(kind, *nothing))), there)
    return Table(
        f"One exemplar, {pairs} pairs of images of {_SIDE} x {_SIDE}",
        [
            own.row("in its own image, which shows the exemplar itself as well"),
            other.row("in another image"),
            words.row("its colour and shape as words, in that image"),
        ],
    )
