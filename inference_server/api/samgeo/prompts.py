"""samgeo's form fields as prompts of `segmentation.types`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from inference_server.errors import RequestError
from inference_server.geo import GeoReference, across_antimeridian
from inference_server.segmentation.types import AutomaticOptions, ConceptPrompt, VisualPrompt
from schemas.common import Limits
from schemas.samgeo import AutomaticRequest, Boxes, PointLabels, Points, PredictRequest

T = TypeVar("T")

_EXAMPLES = {
    "point_coords": "[[x, y], ...]",
    "point_labels": "[1, 0, ...]",
    "boxes": "[[xmin, ymin, xmax, ymax], ...]",
}


def concept_prompt(
    text: str | None = None, boxes: NDArray[np.float64] | None = None, threshold: float = 0.5
) -> ConceptPrompt:
    """Build a concept prompt.

    Args:
        text: the concept in words; None if it is given by boxes alone.
        boxes: exemplar boxes, `[N, 4]`, (x0, y0, x1, y1) in pixels; default none.
        threshold: minimum confidence, 0 to 1; default 0.5.
    """
    corners = np.zeros((0, 4), np.float32) if boxes is None else boxes.astype(np.float32)
    return ConceptPrompt(text, corners, np.ones(len(corners), np.int64), threshold)


def automatic_options(form: AutomaticRequest) -> AutomaticOptions:
    """Return the options of automatic mask generation."""
    options = AutomaticOptions(
        points_per_side=form.points_per_side,
        pred_iou_threshold=form.pred_iou_thresh,
        stability_threshold=form.stability_score_thresh,
    )
    if form.nms_iou_threshold is None:
        return options
    return replace(options, mask_nms_threshold=form.nms_iou_threshold)


@dataclass(frozen=True, slots=True)
class SamgeoPrompts:
    """The points and boxes of a form: all points are on or beside one object.

    Attributes:
        points: `float64[N, 2]`, (x, y).
        labels: `int64[N]`, 1 for a point on the object, 0 for one beside it.
        boxes: `float64[M, 4]`, (xmin, ymin, xmax, ymax).
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]

    @classmethod
    def of(cls, form: PredictRequest, limits: Limits) -> SamgeoPrompts:
        """Parse the prompts of a form; call it in a worker thread.

        Args:
            form: the form, with prompts as JSON texts.
            limits: limits on the number of points and boxes.

        Raises:
            RequestError: a field is not valid JSON or has the wrong type, there are too many
                prompts, or they contradict each other.
        """
        points = _parse("point_coords", form.point_coords, Points, limits.max_points)
        labels = _parse("point_labels", form.point_labels, PointLabels, limits.max_points)
        max_boxes = limits.max_boxes if form.model_version == "sam3" else limits.max_visual_prompts
        boxes = np.array(_parse("boxes", form.boxes, Boxes, max_boxes), np.float64).reshape(-1, 4)
        if len(points) + len(boxes) > limits.max_shapes:
            raise RequestError(
                f"The form has {len(points) + len(boxes)} points and boxes; at most "
                f"{limits.max_shapes} are accepted. Send fewer per request, or raise "
                "INFERENCE_MAX_SHAPES on the server."
            )
        if not points and not len(boxes):
            raise RequestError("At least one of point_coords or boxes must be provided.")
        if form.point_labels is None:
            labels = [1] * len(points)
        if len(labels) != len(points):
            raise RequestError(
                f"point_labels has {len(labels)} labels for {len(points)} points in point_coords; "
                "send one label per point, 1 on the object or 0 beside it."
            )
        if points and not any(labels) and len(boxes) != 1:
            raise RequestError(
                "All labels in point_labels are 0, so no point is on the object. Send a point with "
                "label 1, or a single box for the points to refine."
            )
        if form.point_crs is None:  # otherwise a box may cross the antimeridian
            _refuse_inverted(boxes)
        return cls(np.array(points, np.float64).reshape(-1, 2), np.array(labels, np.int64), boxes)

    def in_pixels(self, crs: str, reference: GeoReference | None) -> SamgeoPrompts:
        """Convert the prompts from map coordinates to pixels of the image.

        Args:
            crs: the prompts' CRS, such as `EPSG:4326`.
            reference: the image's georeference; None if it has none.

        Raises:
            RequestError: the image has no georeference, the CRS is unknown, a box is empty or
                inverted, or a prompt lies outside the image.
        """
        if reference is None:
            raise RequestError(
                "point_crs requires a georeferenced image, such as a GeoTIFF. Omit point_crs and "
                "send pixel coordinates."
            )
        boxes = across_antimeridian(self.boxes, crs)
        _refuse_inverted(boxes)
        return replace(
            self,
            points=reference.to_pixels(self.points, crs),
            boxes=reference.boxes_to_pixels(boxes, crs),
        )

    @property
    def object_of_points(self) -> VisualPrompt:
        """The object that the points select."""
        return VisualPrompt(self.points.astype(np.float32), self.labels)

    def objects(self) -> list[VisualPrompt]:
        """Return one object per box, and one for the points; they refine a single box instead."""
        boxes = self.boxes.astype(np.float32)
        if len(boxes) == 1 and len(self.points):
            return [replace(self.object_of_points, box=boxes[0])]
        no_points = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        found = [VisualPrompt(*no_points, box=box) for box in boxes]
        return [*found, self.object_of_points] if len(self.points) else found


def _refuse_inverted(boxes: NDArray[np.float64]) -> None:
    """Refuse boxes `[N, 4]` of which a side has no length, or a negative one."""
    inverted = np.flatnonzero((boxes[:, :2] >= boxes[:, 2:]).any(axis=1))
    if inverted.size:
        raise RequestError(
            f"boxes[{inverted[0]}] is empty or inverted; send [xmin, ymin, xmax, ymax]."
        )


def _parse(name: str, text: str | None, form: TypeAdapter[list[T]], limit: int) -> list[T]:
    """Parse a field that contains JSON; an absent one is empty."""
    if text is None:
        return []
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"Invalid JSON in prompt fields: {name}: {error}") from None
    if isinstance(value, list) and name != "point_labels" and _are_numbers(value[:1]):
        value = [value]  # a single point or box without the outer brackets
    if isinstance(value, list) and len(value) > limit:
        raise RequestError(
            f"{name} has {len(value)} entries; at most {limit} are accepted. Send fewer per "
            "request, or raise the server's limit."
        )
    try:
        return form.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"[{part}]" for part in first["loc"])
        raise RequestError(
            f"{name}{place}: {first['msg']}. Send {name} as JSON such as {_EXAMPLES[name]}."
        ) from None


def _are_numbers(values: list[object]) -> bool:
    return bool(values) and all(isinstance(value, int | float) for value in values)
