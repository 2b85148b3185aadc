"""Points and boxes in a raster: each is answered in a window around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.catalog import ModelKey
from inference_server.errors import PromptError
from inference_server.images.window import WindowSource
from inference_server.observability.metrics import Timings
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.tiling.run import View, segment_around
from inference_server.segmentation.types import (
    EncodedImage,
    ImageRef,
    SegmentationResult,
    VisualOptions,
    VisualPrompt,
)

_SHARE = 2
"""Prompts share a window if together they take at most this fraction (1 / n) of its side."""


Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels."""


async def segment_prompts(
    segmenter: SegmentationService,
    tenant: str,
    source: WindowSource,
    prompts: Sequence[VisualPrompt],
    options: VisualOptions,
    tile_size: int,
    *,
    timings: Timings,
    model: ModelKey | None = None,
) -> SegmentationResult:
    """Segment one object per prompt in a raster.

    Prompts that are near one another share a window, which is encoded once; the windows are
    answered one after the other.

    Args:
        segmenter: answers each window.
        tenant: owner of the raster.
        source: the raster.
        prompts: objects to segment; points and boxes in pixels of the raster.
        options: as for an image; logits are neither returned, saved nor loaded.
        tile_size: side of a window in pixels.
        timings: receives the duration of each step.
        model: see `SegmentationService.visual`.

    Returns:
        The instances in the raster, in the order of the prompts.

    Raises:
        PromptError: a prompt has neither points nor a box, or lies outside the raster and
            `options.within` is set.
        InferenceServerError: a window cannot be read or searched.
    """
    options = replace(options, save_logits=False, load_logits=False, logits=False)
    instances = []
    images = []
    extents = [
        _extent(number, prompt, source.size, within=options.within)
        for number, prompt in enumerate(prompts)
    ]
    for group in near_each_other(extents, tile_size / _SHARE):
        members = [prompts[number] for number in group]

        async def search(
            image: ImageRef, view: View, members: Sequence[VisualPrompt] = members
        ) -> SegmentationResult:
            moved = [_moved(each, view) for each in members]
            return await segmenter.visual(
                tenant, image, moved, options, timings=timings, model=model
            )

        box = _around([extents[number] for number in group])
        found = await segment_around(segmenter, source, box, search, tile_size)
        images.append(found.image)
        instances += [replace(each, prompt=group[each.prompt]) for each in found.instances]
    instances.sort(key=lambda each: each.prompt)
    return SegmentationResult(EncodedImage.joined(images), instances)


def _moved(prompt: VisualPrompt, view: View) -> VisualPrompt:
    """A prompt in pixels of a window's image."""
    return replace(
        prompt,
        points=view.points(prompt.points),
        box=None if prompt.box is None else view.boxes(prompt.box),
    )


def _extent(number: int, prompt: VisualPrompt, size: tuple[int, int], *, within: bool) -> Box:
    """The tight box of a prompt's points and box."""
    height, width = size
    corners: NDArray[np.float64] = np.asarray(prompt.points, np.float64).reshape(-1, 2)
    if prompt.box is not None:
        corners = np.vstack([corners, np.asarray(prompt.box, np.float64).reshape(2, 2)])
    if not len(corners):
        raise PromptError(
            f"Prompt {number} has neither points nor a box, and this raster is segmented in "
            "windows around them; send one."
        )
    (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    # As for an image: a point may lie on the border; a box needs pixels of the raster.
    if len(prompt.points):
        is_outside = x1 < 0 or y1 < 0 or x0 > width or y0 > height
    else:
        is_outside = x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height
    if within and is_outside:
        raise PromptError(f"Prompt {number} lies outside the raster of {width} x {height} pixels.")
    return x0, y0, x1, y1


def near_each_other(boxes: Sequence[Box], most: float) -> list[list[int]]:
    """Group boxes so that those of a group are seen well in one window.

    Args:
        boxes: (x0, y0, x1, y1) in pixels.
        most: maximum side of the box around a group of several boxes, in pixels.

    Returns:
        The indices of each group's boxes.
    """
    groups: list[list[int]] = []
    around: list[Box] = []
    order = sorted(range(len(boxes)), key=lambda index: (boxes[index][1], boxes[index][0]))
    for index in order:
        for number, box in enumerate(around):
            joint = _around([box, boxes[index]])
            if max(joint[2] - joint[0], joint[3] - joint[1]) <= most:
                groups[number].append(index)
                around[number] = joint
                break
        else:
            groups.append([index])
            around.append(boxes[index])
    return groups


def _around(boxes: Sequence[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)
