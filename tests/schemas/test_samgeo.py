"""samgeo API: parsing and validation of form fields, response models."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.common import Limits, validation_detail
from schemas.samgeo import (
    AutomaticRequest,
    BoxCollection,
    DetectionList,
    MaskCollection,
    PredictRequest,
    SegmentationResult,
    TextRequest,
)

FILE = object()


def test_defaults() -> None:
    own = {"api_key"}
    assert AutomaticRequest(file=FILE).model_dump(exclude=own) == {
        "file": FILE,
        "model_version": "sam2",
        "model_id": None,
        "output_format": "geojson",
        "geojson_crs": None,
        "tiles": "auto",
        "tile_size": None,
        "tile_overlap": None,
        "bands": None,
        "foreground": True,
        "unique": True,
        "min_size": 0,
        "max_size": None,
        "points_per_side": 32,
        "pred_iou_thresh": 0.8,
        "stability_score_thresh": 0.95,
        "nms_iou_threshold": None,
    }
    assert PredictRequest(file=FILE).model_dump(exclude=own) == {
        "file": FILE,
        "model_version": "sam3",
        "model_id": None,
        "output_format": "geojson",
        "geojson_crs": None,
        "tiles": "auto",
        "tile_size": None,
        "tile_overlap": None,
        "bands": None,
        "point_coords": None,
        "point_labels": None,
        "boxes": None,
        "point_crs": None,
        "multimask_output": False,
        "min_size": 0,
        "max_size": None,
    }
    assert TextRequest(file=FILE, prompt="tree").model_dump(exclude=own) == {
        "file": FILE,
        "prompt": "tree",
        "model_id": None,
        "backend": "meta",
        "output_format": "geojson",
        "geojson_crs": None,
        "tiles": "auto",
        "tile_size": None,
        "tile_overlap": None,
        "bands": None,
        "confidence_threshold": 0.5,
        "nms_iou_threshold": None,
        "min_size": 0,
        "max_size": None,
    }


def test_form_fields_are_parsed() -> None:
    form = {
        "file": FILE,
        "unique": "False",
        "foreground": "0",
        "min_size": "12",
        "max_size": "-1",
        "points_per_side": "8",
        "pred_iou_thresh": "0.25",
        "unknown": "ignored",
    }
    read = AutomaticRequest.model_validate(form)
    assert (read.unique, read.foreground) == (False, False)
    assert (read.min_size, read.max_size, read.points_per_side) == (12, -1, 8)
    assert read.pred_iou_thresh == 0.25


def test_empty_fields_are_absent() -> None:
    form = {"file": FILE, "prompt": "tree", "model_id": "", "min_size": " ", "max_size": ""}
    assert TextRequest.model_validate(form) == TextRequest(file=FILE, prompt="tree")


@pytest.mark.parametrize(
    ("model", "form", "location"),
    [
        (TextRequest, {"prompt": "tree"}, "file"),
        (TextRequest, {"prompt": "tree", "file": "text"}, "file"),
        (TextRequest, {"prompt": "tree", "file": ""}, "file"),
        (TextRequest, {"file": FILE}, "prompt"),
        (TextRequest, {"file": FILE, "prompt": ""}, "prompt"),
        (TextRequest, {"file": FILE, "prompt": "x" * 11}, "prompt"),
        (TextRequest, {"file": FILE, "prompt": "x", "confidence_threshold": "inf"}, None),
        (AutomaticRequest, {"file": FILE, "points_per_side": "0"}, "points_per_side"),
        (AutomaticRequest, {"file": FILE, "points_per_side": "129"}, "points_per_side"),
        (AutomaticRequest, {"file": FILE, "points_per_side": "8.5"}, "points_per_side"),
        (AutomaticRequest, {"file": FILE, "stability_score_thresh": "2"}, None),
        (PredictRequest, {"file": FILE, "multimask_output": "both"}, "multimask_output"),
    ],
)
def test_invalid_fields(model: Any, form: dict[str, Any], location: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(form, context=Limits(max_text_length=10))
    (mistake,) = validation_detail(caught.value)
    assert mistake["loc"] == ["body", location or list(form)[-1]]


def test_each_response_fits_one_model() -> None:
    """Generated clients may try the models in any order."""
    responses: list[tuple[dict[str, Any], Any]] = [
        ({"type": "FeatureCollection", "name": "output", "features": []}, MaskCollection),
        ({"type": "FeatureCollection", "num_detections": 0, "features": []}, BoxCollection),
        (
            {"image_width": 2, "image_height": 1, "num_detections": 0, "detections": []},
            DetectionList,
        ),
    ]
    for response, model in responses:
        assert type(SegmentationResult.model_validate(response).root) is model
        for _, other in responses:
            if other is not model:
                with pytest.raises(ValidationError):
                    other.model_validate(response)
