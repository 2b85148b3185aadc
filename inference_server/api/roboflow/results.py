"""Segmentation results as Roboflow's response bodies; call these functions in a worker thread."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from inference_server.errors import ImageTooLargeError
from inference_server.masks import corner_and_size, encode_rle, mask_polygons
from inference_server.segmentation.types import Instance, SegmentationResult
from inference_server.settings import MiB
from schemas.roboflow import PredictionOptions, Sam3Prompt


def concept_results(
    prompts: Sequence[Sam3Prompt], instances: Sequence[Instance], options: PredictionOptions
) -> list[dict[str, Any]]:
    """Build `prompt_results` of a concept response; empty masks are omitted.

    Args:
        prompts: the prompts of the request, each echoed in its result.
        instances: all instances found.
        options: format of the masks, and what to add to them.
    """
    results = []
    for index, prompt in enumerate(prompts):
        echo: dict[str, Any] = {
            "prompt_index": index,
            "type": prompt.kind,
            "num_boxes": len(prompt.boxes),
        }
        if prompt.text is not None:
            echo["text"] = prompt.text
        found = [
            _prediction(instance, options)
            for instance in instances
            if instance.prompt == index and not instance.mask.is_empty
        ]
        results.append({"prompt_index": index, "echo": echo, "predictions": found})
    return results


def visual_results(instances: Sequence[Instance], options: PredictionOptions) -> dict[str, Any]:
    """Build `prompt_results` and `predictions` of a visual response.

    Args:
        instances: one instance per prompt, in prompt order.
        options: format of the masks, and what to add to them.
    """
    found = [_prediction(instance, options) for instance in instances]
    return {
        "prompt_results": [
            {"prompt_index": index, "predictions": [prediction]}
            for index, prediction in enumerate(found)
        ],
        "predictions": found,
    }


def npz_archive(result: SegmentationResult, max_bytes: int, *, boxes: bool = False) -> bytes:
    """Build a compressed `.npz` file of full-size masks and low-resolution logits.

    Args:
        result: instances with logits.
        max_bytes: maximum size of the uncompressed full-size masks, in bytes.
        boxes: also write the boxes and areas of the masks. Default: False.

    Returns:
        A file with `masks` as `bool[N, H, W]` and `low_res_masks` as `float32[N, h, w]`; with
        `boxes`, also with `boxes` as `int64[N, 4]` (left, top, width, height) and `areas` as
        `int64[N]`, both in pixels.

    Raises:
        ImageTooLargeError: the masks exceed `max_bytes`.
    """
    height, width = result.image.embedding.size
    count = len(result.instances)
    if count * height * width > max_bytes:
        raise ImageTooLargeError(
            f"{count} full-size masks of {width} x {height} pixels exceed {max_bytes // MiB} MiB. "
            "Use format rle, send fewer prompts per request, or raise INFERENCE_MAX_BINARY_MB on "
            "the server."
        )
    extra: dict[str, Any] = {}
    if boxes:
        masks = [instance.mask for instance in result.instances]
        extra["boxes"] = np.array([corner_and_size(mask) for mask in masks], np.int64)
        extra["areas"] = np.array([mask.area for mask in masks], np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        masks=np.stack([instance.mask.to_plane() for instance in result.instances]),
        low_res_masks=np.stack(
            [instance.logits for instance in result.instances if instance.logits is not None]
        ),
        **extra,
    )
    return buffer.getvalue()


def _prediction(instance: Instance, options: PredictionOptions) -> dict[str, Any]:
    mask = instance.mask
    prediction: dict[str, Any] = {
        "format": options.mask_format,
        "confidence": instance.score,
        "masks": encode_rle(mask)
        if options.mask_format == "rle"
        else mask_polygons(mask, options.simplify_epsilon),
    }
    if options.include_boxes:
        prediction["bbox"] = corner_and_size(mask)
        prediction["area"] = mask.area
    return prediction
