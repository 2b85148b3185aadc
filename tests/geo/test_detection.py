"""Detections from planes and scored boxes."""

from __future__ import annotations

import numpy as np
import orjson

from inference_server.geo import Detection, detection_list, mask_detections
from inference_server.masks import Mask


def test_detections_of_masks() -> None:
    size = 1464, 2647
    planes = np.zeros((2, *size), np.bool_)
    planes[0, 80:251, 50:201] = True
    planes[1, 45:211, 310:481] = True
    found = mask_detections([Mask.from_plane(plane) for plane in planes], [1, 3])
    assert found == [
        Detection(1, (50.0, 80.0, 200.0, 250.0), 1),
        Detection(2, (310.0, 45.0, 480.0, 210.0), 3),
    ]
    answer = detection_list(found, size)
    # The example in samgeo's documentation, with its order of keys.
    assert orjson.dumps(answer) == orjson.dumps(
        {
            "image_width": 2647,
            "image_height": 1464,
            "num_detections": 2,
            "detections": [
                {"id": 1, "value": 1, "bbox": [50, 80, 200, 250], "width": 150, "height": 170},
                {"id": 2, "value": 3, "bbox": [310, 45, 480, 210], "width": 170, "height": 165},
            ],
        }
    )


def test_scores_go_with_rounded_boxes() -> None:
    # The width is that of the rounded sides; the box is 146.8 wide.
    found = [Detection(1, (2506.47, 134.43, 2653.27, 323.52), score=0.887)]
    assert orjson.dumps(detection_list(found, (1464, 2647))["detections"]) == orjson.dumps(
        [{"id": 1, "bbox": [2506, 134, 2653, 324], "width": 147, "height": 190, "score": 0.887}]
    )


def test_no_object() -> None:
    assert mask_detections([], []) == []
    assert detection_list([], (3, 4)) == {
        "image_width": 4,
        "image_height": 3,
        "num_detections": 0,
        "detections": [],
    }
