"""Runs in the environment of Roboflow's `inference`: the SAM blocks of its Workflows.

    python workflow_blocks.py IMAGE KEY X Y > masks.json

The environment variables say where the blocks send their work. X, Y is a click.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import inference.core  # reads the environment variables for the blocks
from pycocotools import mask as coco
from roboflow_workflows.core_steps.common.entities import StepExecutionMode
from roboflow_workflows.core_steps.models.foundation.segment_anything2.v1 import (
    SegmentAnything2BlockV1,
)
from roboflow_workflows.core_steps.models.foundation.segment_anything3.v1 import (
    SegmentAnything3BlockV1,
)
from roboflow_workflows.core_steps.models.foundation.segment_anything3.v2 import (
    SegmentAnything3BlockV2,
)
from roboflow_workflows.core_steps.models.foundation.segment_anything3.v3 import (
    SegmentAnything3BlockV3,
)
from roboflow_workflows.core_steps.models.foundation.segment_anything3_interactive.v1 import (
    SegmentAnything3InteractiveBlockV1,
)
from roboflow_workflows.environment import WORKFLOWS_STEP_EXECUTION_MODE
from roboflow_workflows.execution_engine.entities.base import (
    Batch,
    ImageParentMetadata,
    WorkflowImageData,
)

import cv2  # isort: skip - inference sets it up

assert inference.core
PATH, KEY, X, Y = sys.argv[1:]
MODEL, WORDS = "sam3/sam3_final", ["red circle", "blue square"]


def batch(item: Any) -> Any:
    """Return a batch of one item."""
    return Batch.init(content=[item], indices=[(0,)])


def run(block: Any, *inputs: Any, **options: Any) -> Any:
    """Run a block on the image and return its detections."""
    mode = StepExecutionMode(WORKFLOWS_STEP_EXECUTION_MODE)
    made = block(model_manager=None, api_key=KEY, step_execution_mode=mode)
    (result,) = made.run(IMAGES, *inputs, **options)
    return result["predictions"]


def written(detections: Any) -> list[dict[str, Any]]:
    """Return detections as JSON values."""
    return [
        {
            "name": str(name),
            "confidence": float(confidence),
            "mask": coco.encode(mask.astype("uint8", order="F"))["counts"].decode(),
        }
        for name, confidence, mask in zip(
            detections.data["class_name"], detections.confidence, detections.mask, strict=True
        )
    ]


IMAGES = batch(
    WorkflowImageData(
        parent_metadata=ImageParentMetadata(parent_id="image"), numpy_image=cv2.imread(PATH)
    )
)
found = run(SegmentAnything3BlockV3, MODEL, WORDS, 0.5)
click = {"x": float(X), "y": float(Y), "positive": True}
answers = {
    "sam3@v3": found,
    "sam3@v3 polygons": run(SegmentAnything3BlockV3, MODEL, WORDS, 0.5, output_format="polygons"),
    "sam3@v2": run(SegmentAnything3BlockV2, MODEL, WORDS, 0.5),
    "sam3@v1": run(SegmentAnything3BlockV1, MODEL, WORDS, 0.5),
    "sam3_interactive@v1": run(SegmentAnything3InteractiveBlockV1, [click], None, 0.0, True),
    "sam3_interactive@v1 boxes": run(
        SegmentAnything3InteractiveBlockV1, None, batch(found), 0.0, False
    ),
    "segment_anything@v1": run(SegmentAnything2BlockV1, batch(found), "hiera_tiny", 0.0, False),
}
sys.stdout.write("\n" + json.dumps({name: written(each) for name, each in answers.items()}) + "\n")
