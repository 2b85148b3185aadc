"""The points and boxes of a samgeo form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from inference_server.engines.base import VisualPrompt
from inference_server.errors import RequestError
from inference_server.geo import GeoReference
from schemas.common import Limits
from schemas.samgeo import Boxes, PointLabels, Points, PredictRequest

T = TypeVar("T")

_FORMS = {
    "point_coords": "[[x, y], ...]",
    "point_labels": "[1, 0, ...]",
    "boxes": "[[xmin, ymin, xmax, ymax], ...]",
}


@dataclass(frozen=True, slots=True)
class Prompts:
    """Points on one object, and boxes.

    Attributes:
        points: `float64[N, 2]`, x, y.
        labels: `int64[N]`, 1 on the object, 0 beside it.
        boxes: `float64[M, 4]`, xmin, ymin, xmax, ymax.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]

    @classmethod
    def of(cls, form: PredictRequest, limits: Limits) -> Prompts:
        """Read the prompts of a form; for worker threads.

        Raises:
            RequestError: they are no JSON, of another form, too many, or cannot be meant.
        """
        points = _read("point_coords", form.point_coords, Points, limits.max_points)
        labels = _read("point_labels", form.point_labels, PointLabels, limits.max_points)
        most = limits.max_boxes if form.model_version == "sam3" else limits.max_visual_prompts
        boxes = np.array(_read("boxes", form.boxes, Boxes, most), np.float64).reshape(-1, 4)
        if len(points) + len(boxes) > limits.max_shapes:
            raise RequestError(
                f"There are {len(points) + len(boxes)} points and boxes in all, and "
                f"{limits.max_shapes} are accepted. Send fewer at a time, or raise "
                "INFERENCE_MAX_SHAPES on the server."
            )
        if not points and not len(boxes):
            raise RequestError("At least one of point_coords or boxes must be provided.")
        if form.point_labels is None:
            labels = [1] * len(points)
        if len(labels) != len(points):
            raise RequestError(
                f"point_labels has {len(labels)} labels for {len(points)} points in point_coords: "
                "send one for each, 1 on the object or 0 beside it."
            )
        if points and not any(labels) and len(boxes) != 1:
            raise RequestError(
                "All points of point_coords are beside the object (0 in point_labels). Send one "
                "that is on it, or a single box that they refine."
            )
        if (boxes[:, :2] >= boxes[:, 2:]).any():
            raise RequestError(
                "A box of boxes is empty or inside out: send [xmin, ymin, xmax, ymax]."
            )
        return cls(np.array(points, np.float64).reshape(-1, 2), np.array(labels, np.int64), boxes)

    def in_pixels(self, crs: str, reference: GeoReference | None) -> Prompts:
        """The same prompts in pixels of an image.

        Args:
            crs: what they are in.
            reference: of the image; None where it has no place on the map.

        Raises:
            RequestError: the CRS is unknown, or a prompt lies outside of the image.
        """
        if reference is None:
            raise RequestError(
                "point_crs needs an image with a place on the map, such as a GeoTIFF. Send pixel "
                "coordinates without point_crs."
            )
        return replace(
            self,
            points=reference.to_pixels(self.points, crs),
            boxes=reference.boxes_to_pixels(self.boxes, crs),
        )

    @property
    def object_of_points(self) -> VisualPrompt:
        """What the points are on."""
        return VisualPrompt(self.points.astype(np.float32), self.labels)

    def objects(self) -> list[VisualPrompt]:
        """One object a box, and one for the points; points beside a single box refine it."""
        boxes = self.boxes.astype(np.float32)
        if len(boxes) == 1 and len(self.points):
            return [replace(self.object_of_points, box=boxes[0])]
        nothing = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        found = [VisualPrompt(*nothing, box=box) for box in boxes]
        return [*found, self.object_of_points] if len(self.points) else found


def _read(name: str, text: str | None, form: TypeAdapter[list[T]], most: int) -> list[T]:
    """A field that holds JSON; empty where it is absent."""
    if text is None:
        return []
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"Invalid JSON in prompt fields: {name}: {error}") from None
    if isinstance(value, list) and name != "point_labels" and _are_numbers(value[:1]):
        value = [value]  # one of them, flat
    if isinstance(value, list) and len(value) > most:
        raise RequestError(
            f"{name} has {len(value)} entries, and {most} are accepted. Send fewer, or raise the "
            "server's limit."
        )
    try:
        return form.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"[{part}]" for part in first["loc"])
        raise RequestError(
            f"{name}{place}: {first['msg']}. {name} is JSON like {_FORMS[name]}."
        ) from None


def _are_numbers(values: list[object]) -> bool:
    return bool(values) and all(isinstance(value, int | float) for value in values)
