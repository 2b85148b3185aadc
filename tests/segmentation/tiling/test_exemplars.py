"""Exemplars of a raster: encoded in windows of their own, used in all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_server.demo.scenes import make_scene
from inference_server.errors import PromptError
from inference_server.images.window import Window, WindowPixels
from inference_server.masks import Mask
from inference_server.observability.metrics import Timings
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.tiling import (
    Grid,
    SeamOptions,
    TiledObjects,
    segment_tiled,
    with_exemplars,
)
from inference_server.segmentation.tiling.exemplars import _windows
from inference_server.segmentation.tiling.run import show
from inference_server.segmentation.types import (
    ConceptOptions,
    ConceptPrompt,
    ImageRef,
    SegmentationResult,
)
from inference_server.settings import Settings
from tests.masks.planes import iou

pytestmark = pytest.mark.anyio

KIND = {"shapes": ("circle", "star"), "colors": ("red", "blue")}
SCENES = [make_scene(seed, (256, 256), count=(3, 5), **KIND) for seed in (1, 2)]
RASTER = np.concatenate([scene.image for scene in SCENES], axis=1)
"""Two scenes side by side, each of which is a window."""

WANTED = ("red", "circle")


class Raster:
    """Pixels, and what was read of them."""

    def __init__(self, pixels: NDArray[np.uint8] = RASTER) -> None:
        self.pixels = pixels
        self.windows: list[Window] = []

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def has_data(self, window: Window) -> bool:
        return True

    def read(self, window: Window, max_side: int | None = None) -> WindowPixels:
        self.windows.append(window)
        return WindowPixels(np.ascontiguousarray(self.pixels[window.slices]))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def service() -> Iterator[LocalSegmentationService]:
    with closing(LocalSegmentationService.for_files(Settings())) as made:
        yield made


def exemplar(*boxes: tuple[float, float, float, float], text: str | None = None) -> ConceptPrompt:
    return ConceptPrompt(text, np.array(boxes, np.float32), np.ones(len(boxes), np.int64))


async def test_in_its_own_window_an_exemplar_finds_what_its_box_finds(
    service: LocalSegmentationService,
) -> None:
    raster = Raster(SCENES[0].image)
    prompts = [exemplar(item.box) for item in SCENES[0].objects]
    prompts.append(exemplar(SCENES[0].objects[0].box, text="shape"))
    encoded = await with_exemplars(service, "t", raster, prompts, 256, timings=Timings())
    assert all(not len(prompt.boxes) for prompt in encoded)

    shown = await show(service, raster, Window(0, 0, 256, 256))
    by_box, by_tokens = [
        await service.concept("t", shown.image, asked, ConceptOptions(), timings=Timings())
        for asked in (prompts, encoded)
    ]

    assert by_box.exemplars == ()  # they were not asked for
    assert by_box.instances
    assert [(each.prompt, each.score) for each in by_box.instances] == [
        (each.prompt, each.score) for each in by_tokens.instances
    ]
    for one, other in zip(by_box.instances, by_tokens.instances, strict=True):
        assert np.array_equal(one.mask.runs, other.mask.runs)


async def test_an_exemplar_finds_its_kind_in_other_windows(
    service: LocalSegmentationService,
) -> None:
    raster, grid = Raster(), Grid.of((256, 512), 256, 0)
    (item,) = [each for each in SCENES[0].objects if (each.color, each.shape) == WANTED][:1]
    prompts = await with_exemplars(
        service, "t", raster, [exemplar(item.box)], 256, timings=Timings()
    )

    async def search(image: ImageRef, window: Window) -> SegmentationResult:
        return await service.concept("t", image, prompts, ConceptOptions(), timings=Timings())

    settings = Settings()
    with TiledObjects.of(settings, raster.size) as objects:
        await segment_tiled(
            *(service, raster, search, grid, SeamOptions()), objects=objects, settings=settings
        )
        found = list(objects)
    for number, scene in enumerate(SCENES):
        for each in scene.objects:
            plane = np.zeros(raster.size, np.bool_)
            plane[:, 256 * number : 256 * number + 256] = each.mask
            overlap = max((iou(one.mask, Mask.from_plane(plane)) for one in found), default=0)
            if (each.color, each.shape) == WANTED:
                assert overlap > 0.8
            else:
                assert overlap < 0.2


async def test_prompts_without_boxes_are_left_as_they_are(
    service: LocalSegmentationService,
) -> None:
    raster = Raster()
    words = ConceptPrompt("circle", np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    found = await with_exemplars(service, "t", raster, [words], 256, timings=Timings())
    assert found == [words]
    assert raster.windows == []


async def test_the_exemplars_of_a_window_are_encoded_together(
    service: LocalSegmentationService,
) -> None:
    raster = Raster()
    near = exemplar((40, 40, 60, 60), (70, 70, 90, 90), (420, 100, 440, 120))
    near = replace(near, labels=np.array([1, 0, 1]))
    (found,) = await with_exemplars(service, "t", raster, [near], 128, timings=Timings())
    assert raster.windows == [Window(0, 0, 128, 128), Window(366, 46, 128, 128)]
    assert found.exemplars is not None
    assert len(found.exemplars) == 2 + 1 + 1 + 1  # and a token of each window
    assert found.exemplars.dtype == np.float32


@pytest.mark.parametrize(
    ("box", "message"),
    [((600, 10, 620, 20), "outside the raster"), ((10, 10, 300, 20), "larger than a window")],
)
async def test_exemplars_that_no_window_shows_are_refused(
    service: LocalSegmentationService, box: tuple[float, float, float, float], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        await with_exemplars(service, "t", Raster(), [exemplar(box)], 256, timings=Timings())


def test_an_exemplar_at_the_edge_has_a_window_inside() -> None:
    boxes = np.array([(-5, -5, 20, 20), (990, 700, 1000, 800)], np.float32)
    windows = _windows((800, 1000), boxes, 256)
    assert windows == [(Window(0, 0, 256, 256), [0]), (Window(744, 544, 256, 256), [1])]
