"""`model_version=sam`: the original SAM answers samgeo's points, boxes and automatic requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference_server.demo.scenes import make_scene
from tests.api.pictures import iou
from tests.api.rasters import (
    AUTOMATIC,
    PREDICT,
    answer,
    geotiff,
    ids,
    masks_of,
    masks_of_geojson,
    post,
)
from tests.api.serving import RunningHere, serving
from tests.engines.sam1.models import processor_of, random_sam1

SIZE = (60, 44)
"""(width, height): an image that is not reduced has exactly the masks of `SamProcessor`."""


@pytest.fixture(scope="module")
def model() -> Any:
    return random_sam1()


@pytest.fixture(scope="module")
def sam1(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHere]:
    """A server with a small random SAM 1."""
    directory: Path = tmp_path_factory.mktemp("sam1") / "roofs"
    model.save_pretrained(directory)
    processor_of().image_processor.save_pretrained(directory)
    with serving(sam1_weights=str(directory), preload="sam:vit_h") as server:
        yield server


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return make_scene(5, SIZE).image


def reference(
    model: Any, image: NDArray[np.uint8], *, multimask: bool, **prompt: Any
) -> NDArray[np.bool_]:
    """The masks of one prompt, by `SamModel` and `SamProcessor`."""
    processor = processor_of()
    inputs = processor(images=image, return_tensors="pt", **prompt)
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    with torch.inference_mode():
        output = model(**inputs, multimask_output=multimask)
    (masks,) = processor.post_process_masks(output.pred_masks, *sizes)
    shown: NDArray[np.bool_] = masks[0].numpy()
    return shown


def test_a_box_is_answered_as_by_sam_model(
    sam1: RunningHere, model: Any, image: NDArray[np.uint8]
) -> None:
    box = [8.0, 6.0, 40.0, 30.0]
    (mask,) = reference(model, image, multimask=False, input_boxes=[[box]])
    response = post(
        sam1,
        PREDICT,
        geotiff(image),
        model_version="sam",
        model_id="vit_h",
        boxes=[box],
        output_format="geotiff",
    )
    assert response.headers["x-model"] == "sam1/roofs"
    (found,) = masks_of(ids(response))
    assert iou(found, mask) > 0.999


def test_points_give_three_masks_on_request(
    sam1: RunningHere, model: Any, image: NDArray[np.uint8]
) -> None:
    prompt = {"input_points": [[[20.0, 20.0]]], "input_labels": [[1]]}
    masks = [m for m in reference(model, image, multimask=True, **prompt) if m.any()]
    found = answer(
        sam1,
        PREDICT,
        geotiff(image, None),
        model_version="sam",
        point_coords=[[20, 20]],
        point_labels=[1],
        multimask_output="true",
    )
    shown = masks_of_geojson(found, (SIZE[1], SIZE[0]))
    assert len(shown) == len(masks) > 1
    for mask in masks:
        assert max(iou(mask, other) for other in shown) > 0.999


def test_automatic_masks(sam1: RunningHere, image: NDArray[np.uint8]) -> None:
    response = post(
        sam1,
        AUTOMATIC,
        geotiff(image),
        model_version="sam",
        points_per_side="4",
        pred_iou_thresh="0",
        stability_score_thresh="0",
        output_format="geotiff",
    )
    assert response.headers["x-model"] == "sam1/roofs"
    assert len(masks_of(ids(response))) >= 1


def test_it_is_listed(sam1: RunningHere) -> None:
    listed = sam1.get("/models").json()
    assert listed["models"]["sam"] == ["vit_b", "vit_l", "vit_h"]
    assert ["sam", "vit_h"] in listed["loaded"]
