"""A raster through the demo SAM 3: windows find what one image would show at the right scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from inference_server.demo.scenes import Scene, make_scene
from inference_server.images.window import Window, WindowPixels
from inference_server.masks import Mask
from inference_server.observability.metrics import Timings
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.tiling import (
    SeamOptions,
    TiledObjects,
    plan_grid,
    segment_tiled,
    tile_size_of,
)
from inference_server.segmentation.types import (
    ConceptOptions,
    ConceptPrompt,
    ImageRef,
    Instance,
    SegmentationResult,
    TilingOptions,
)
from inference_server.settings import Settings
from tests.masks.planes import iou

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def service() -> Iterator[LocalSegmentationService]:
    with closing(LocalSegmentationService.for_files(Settings(embedding_cache_mb=64))) as made:
        yield made


class Raster:
    """A scene as a raster."""

    def __init__(self, scene: Scene) -> None:
        self.pixels = scene.image

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def has_data(self, window: Window) -> bool:
        return True

    def read(self, window: Window, max_side: int | None = None) -> WindowPixels:
        return WindowPixels(np.ascontiguousarray(self.pixels[window.slices]))


async def found_in(
    service: LocalSegmentationService, scene: Scene, texts: list[str], tiling: TilingOptions
) -> list[Instance]:
    raster = Raster(scene)
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    prompts = [ConceptPrompt(text, boxes, labels) for text in texts]

    async def search(image: ImageRef, window: Window) -> SegmentationResult:
        return await service.concept("t", image, prompts, ConceptOptions(), timings=Timings())

    side = await tile_size_of(service, "concept")
    grid = plan_grid(Settings(), raster.size, tiling, side)
    assert len(grid) > 3
    with TiledObjects.of(Settings(), raster.size) as objects:
        await segment_tiled(
            *(service, raster, search, grid, SeamOptions.of(Settings())),
            objects=objects,
            settings=Settings(),
        )
        return list(objects)


@pytest.mark.parametrize("seed", [5, 14, 15])
async def test_each_shape_is_found_once(service: LocalSegmentationService, seed: int) -> None:
    scene = make_scene(seed, (900, 900), count=(5, 7))
    names = sorted({f"{item.color} {item.shape}" for item in scene.objects})
    found = await found_in(service, scene, names, TilingOptions(600, 200))
    for item in scene.objects:
        alike = [each for each in found if names[each.prompt] == f"{item.color} {item.shape}"]
        overlaps = sorted(iou(each.mask, Mask.from_plane(item.mask)) for each in alike)
        assert overlaps[-1] > 0.85
        assert all(overlap < 0.1 for overlap in overlaps[:-1])


async def test_the_default_window_is_the_models_input(service: LocalSegmentationService) -> None:
    scene = make_scene(3, (200, 200))
    side = await tile_size_of(service, "concept")
    assert side == 128
    assert await found_in(service, scene, ["shape"], TilingOptions())


async def test_windows_take_a_share_of_the_cache(service: LocalSegmentationService) -> None:
    cache = service.encoder.embeddings
    cache.clear()
    await found_in(service, make_scene(1, (900, 900)), ["shape"], TilingOptions(250, 10))
    assert cache.evictions > 0
    assert 0 < cache.nbytes == cache.window_nbytes <= cache.max_bytes // 10
