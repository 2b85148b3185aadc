"""Points and boxes in a raster: each is answered in a window around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(slots=True)
class _Group:
    """Prompts that are answered in one window.

    Attributes:
        numbers: their positions in the request.
        box: their tight box, x0, y0, x1, y1 in pixels of the raster.
    """

    numbers: list[int]
    box: NDArray[np.float64]


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
    for group in _groups(prompts, source.size, tile_size, within=options.within):
        members = [prompts[number] for number in group.numbers]

        async def search(
            image: ImageRef, view: View, members: Sequence[VisualPrompt] = members
        ) -> SegmentationResult:
            moved = [_moved(each, view) for each in members]
            return await segmenter.visual(
                tenant, image, moved, options, timings=timings, model=model
            )

        x0, y0, x1, y1 = map(float, group.box)
        found = await segment_around(segmenter, source, (x0, y0, x1, y1), search, tile_size)
        images.append(found.image)
        instances += [replace(each, prompt=group.numbers[each.prompt]) for each in found.instances]
    instances.sort(key=lambda each: each.prompt)
    return SegmentationResult(EncodedImage.joined(images), instances)


def _moved(prompt: VisualPrompt, view: View) -> VisualPrompt:
    """A prompt in pixels of a window's image."""
    return replace(
        prompt,
        points=view.points(prompt.points),
        box=None if prompt.box is None else view.boxes(prompt.box),
    )


def _groups(
    prompts: Sequence[VisualPrompt], size: tuple[int, int], tile_size: int, *, within: bool
) -> list[_Group]:
    """Put prompts together that fit into half a window."""
    height, width = size
    groups: list[_Group] = []
    for number, prompt in enumerate(prompts):
        corners: NDArray[np.float64] = np.asarray(prompt.points, np.float64).reshape(-1, 2)
        if prompt.box is not None:
            corners = np.vstack([corners, np.asarray(prompt.box, np.float64).reshape(2, 2)])
        if not len(corners):
            raise PromptError(
                f"Prompt {number} has neither points nor a box, and this raster is segmented in "
                "windows around them; send one."
            )
        low, high = corners.min(axis=0), corners.max(axis=0)
        if within and ((high < 0).any() or low[0] >= width or low[1] >= height):
            raise PromptError(
                f"Prompt {number} lies outside the raster of {width} x {height} pixels."
            )
        box = np.concatenate([low, high])
        for group in groups:
            joint = np.concatenate(
                [np.minimum(group.box[:2], low), np.maximum(group.box[2:], high)]
            )
            if (joint[2:] - joint[:2]).max() * _SHARE <= tile_size:
                group.box, group.numbers = joint, [*group.numbers, number]
                break
        else:
            groups.append(_Group([number], box))
    return groups
