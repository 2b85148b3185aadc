"""Points and boxes of a raster, answered in the window around them."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from inference_server.engines.base import VisualPrompt
from inference_server.errors import ImageError, PromptError
from inference_server.observability.metrics import Timings
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.tiling.around import segment_prompts
from inference_server.segmentation.types import SegmentationResult, VisualOptions
from tests.segmentation.tiling.test_run import Raster, Worker

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Segmenter(Worker):
    """Fails when it is asked about a window."""

    async def visual(self, *_: object, **__: object) -> SegmentationResult:
        raise ImageError("searched")


@pytest.mark.parametrize(
    ("points", "box", "is_on_it"),
    [
        ([(8000, 10)], None, True),
        ([(10, 6000)], None, True),
        ([(8001, 10)], None, False),
        ([(-1, 10)], None, False),
        ([], (7999, 0, 8010, 10), True),
        ([], (8000, 0, 8010, 10), False),
        ([], (-10, 0, 0, 10), False),
    ],
)
async def test_prompts_on_the_border_are_on_the_raster(
    points: list[tuple[float, float]],
    box: tuple[float, float, float, float] | None,
    is_on_it: bool,
) -> None:
    """As on an image that is encoded as a whole."""

    prompt = VisualPrompt(
        np.array(points, np.float32).reshape(-1, 2),
        np.ones(len(points), np.int64),
        None if box is None else np.array(box, np.float32),
    )
    with pytest.raises(ImageError if is_on_it else PromptError):
        await segment_prompts(
            cast("SegmentationService", Segmenter()),
            "ann",
            Raster((6000, 8000)),
            [prompt],
            VisualOptions(within=True),
            1000,
            timings=Timings(),
        )
