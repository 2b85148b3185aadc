"""Exemplars of a raster: encoded in windows of their own, used in all.

The model turns an exemplar box into tokens by the image that it is on. The tokens can be used on
other images as well: `python -m benchmarks tiles` measures how much worse they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.catalog import ModelKey
from inference_server.errors import PromptError
from inference_server.images.window import Window, WindowSource
from inference_server.observability.metrics import Timings
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.tiling.grid import window_around
from inference_server.segmentation.tiling.run import show
from inference_server.segmentation.types import ConceptOptions, ConceptPrompt

_NO_CANDIDATE = 1.0
"""A threshold that no score exceeds: only the exemplars are wanted."""


async def with_exemplars(
    segmenter: SegmentationService,
    tenant: str,
    source: WindowSource,
    prompts: Sequence[ConceptPrompt],
    tile_size: int,
    *,
    timings: Timings,
    model: ModelKey | None = None,
) -> list[ConceptPrompt]:
    """Encode the exemplars of concept prompts, for the search of every window.

    Each exemplar is seen in a window of `tile_size` with the exemplar in its centre, at the
    resolution of the other windows. Exemplars of one prompt that lie in one such window share it.

    Args:
        segmenter: encodes the exemplars.
        tenant: owner of the raster.
        source: the raster.
        prompts: the prompts, with boxes in pixels of the raster.
        tile_size: side of the windows in pixels.
        timings: receives the duration of each step.
        model: a SAM 3. Default: see `SegmentationService.concept`.

    Returns:
        The prompts in the same order, without boxes; they can be used in any window.

    Raises:
        PromptError: an exemplar is outside the raster, or larger than a window.
        InferenceServerError: a window cannot be read or encoded.
    """
    done = []
    for prompt in prompts:
        if not len(prompt.boxes):
            done.append(prompt)
            continue
        found: list[NDArray[np.float32]] = []
        for window, numbers in _windows(source.size, prompt.boxes, tile_size):
            shown = await show(segmenter, source, window)
            asked = replace(
                prompt,
                boxes=shown.view.boxes(prompt.boxes[numbers]),
                labels=prompt.labels[numbers],
                threshold=_NO_CANDIDATE,
                keep_exemplars=True,
            )
            result = await segmenter.concept(
                tenant, shown.image, [asked], ConceptOptions(), timings=timings, model=model
            )
            found += [each for each in result.exemplars if each is not None]
        done.append(
            replace(
                prompt,
                boxes=np.zeros((0, 4), np.float32),
                labels=np.zeros(0, np.int64),
                exemplars=np.concatenate(found),
            )
        )
    return done


def _windows(
    size: tuple[int, int], boxes: NDArray[np.float32], tile_size: int
) -> list[tuple[Window, list[int]]]:
    """The windows of exemplars, and the numbers of the exemplars in each."""
    height, width = size
    for box in boxes:
        x0, y0, x1, y1 = box.tolist()
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise PromptError(
                f"The exemplar ({x0:g}, {y0:g}, {x1:g}, {y1:g}) lies outside the raster, which is "
                f"{width} pixels wide and {height} high."
            )
        if max(x1 - x0, y1 - y0) > tile_size:
            raise PromptError(
                f"The exemplar ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is larger than a window of "
                f"{tile_size} pixels. Send a larger `tile_size`."
            )
    left = list(range(len(boxes)))
    windows = []
    while left:
        x0, y0, x1, y1 = boxes[left[0]].tolist()
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        window = window_around(size, (*middle, *middle), tile_size)
        inside = [
            i
            for i in left
            if i == left[0]
            or (
                boxes[i][0] >= window.x
                and boxes[i][1] >= window.y
                and boxes[i][2] <= window.right
                and boxes[i][3] <= window.bottom
            )
        ]
        windows.append((window, inside))
        left = [i for i in left if i not in inside]
    return windows
