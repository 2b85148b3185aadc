from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.space_label import SpaceLabel, check_space_label
from ..types import UNSET, Unset

T = TypeVar("T", bound="SpaceInputs")


@_attrs_define
class SpaceInputs:
    """An image and prompts. At least one of `text_prompts`, `boxes` and `points` is required.

    Attributes:
        image (str): The base64-encoded image file, with or without a `data:image/…;base64,` prefix, or an `http://` or
            `https://` URL.
        text_prompts (list[str] | Unset): Concepts. All instances of each one are found.
        points (list[list[float]] | Unset): Points. Those inside a positive box refine the object in that box; all
            others together select one more object. Negative points alone select nothing.
        point_labels (list[SpaceLabel] | Unset): One label per point: 1 on the object, 0 outside it.
        boxes (list[list[float]] | Unset): A positive box selects one object. The area of a negative box is removed from
            all masks, including those of text prompts.
        box_labels (list[SpaceLabel] | Unset): One label per box: 1 for positive, 0 for negative.
        multimask_output (bool | Unset): Return three masks of different extent per object selected by boxes or points.
            Default: False.
        confidence_threshold (float | Unset): Minimum score of a mask. Default: 0.5.
        vectorize (bool | Unset): Return polygons in addition to the masks. Default: False.
        simplify_epsilon (float | Unset): Maximum deviation of a polygon from the outline, in pixels. Default: 2.0.
    """

    image: str
    text_prompts: list[str] | Unset = UNSET
    points: list[list[float]] | Unset = UNSET
    point_labels: list[SpaceLabel] | Unset = UNSET
    boxes: list[list[float]] | Unset = UNSET
    box_labels: list[SpaceLabel] | Unset = UNSET
    multimask_output: bool | Unset = False
    confidence_threshold: float | Unset = 0.5
    vectorize: bool | Unset = False
    simplify_epsilon: float | Unset = 2.0
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        image = self.image

        text_prompts: list[str] | Unset = UNSET
        if not isinstance(self.text_prompts, Unset):
            text_prompts = self.text_prompts

        points: list[list[float]] | Unset = UNSET
        if not isinstance(self.points, Unset):
            points = []
            for points_item_data in self.points:
                points_item = points_item_data

                points.append(points_item)

        point_labels: list[int] | Unset = UNSET
        if not isinstance(self.point_labels, Unset):
            point_labels = []
            for point_labels_item_data in self.point_labels:
                point_labels_item: int = point_labels_item_data
                point_labels.append(point_labels_item)

        boxes: list[list[float]] | Unset = UNSET
        if not isinstance(self.boxes, Unset):
            boxes = []
            for boxes_item_data in self.boxes:
                boxes_item = boxes_item_data

                boxes.append(boxes_item)

        box_labels: list[int] | Unset = UNSET
        if not isinstance(self.box_labels, Unset):
            box_labels = []
            for box_labels_item_data in self.box_labels:
                box_labels_item: int = box_labels_item_data
                box_labels.append(box_labels_item)

        multimask_output = self.multimask_output

        confidence_threshold = self.confidence_threshold

        vectorize = self.vectorize

        simplify_epsilon = self.simplify_epsilon

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "image": image,
            }
        )
        if text_prompts is not UNSET:
            field_dict["text_prompts"] = text_prompts
        if points is not UNSET:
            field_dict["points"] = points
        if point_labels is not UNSET:
            field_dict["point_labels"] = point_labels
        if boxes is not UNSET:
            field_dict["boxes"] = boxes
        if box_labels is not UNSET:
            field_dict["box_labels"] = box_labels
        if multimask_output is not UNSET:
            field_dict["multimask_output"] = multimask_output
        if confidence_threshold is not UNSET:
            field_dict["confidence_threshold"] = confidence_threshold
        if vectorize is not UNSET:
            field_dict["vectorize"] = vectorize
        if simplify_epsilon is not UNSET:
            field_dict["simplify_epsilon"] = simplify_epsilon

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        image = d.pop("image")

        text_prompts = cast(list[str], d.pop("text_prompts", UNSET))

        _points = d.pop("points", UNSET)
        points: list[list[float]] | Unset = UNSET
        if _points is not UNSET:
            points = []
            for points_item_data in _points:
                points_item = cast(list[float], points_item_data)

                points.append(points_item)

        _point_labels = d.pop("point_labels", UNSET)
        point_labels: list[SpaceLabel] | Unset = UNSET
        if _point_labels is not UNSET:
            point_labels = []
            for point_labels_item_data in _point_labels:
                point_labels_item = check_space_label(point_labels_item_data)

                point_labels.append(point_labels_item)

        _boxes = d.pop("boxes", UNSET)
        boxes: list[list[float]] | Unset = UNSET
        if _boxes is not UNSET:
            boxes = []
            for boxes_item_data in _boxes:
                boxes_item = cast(list[float], boxes_item_data)

                boxes.append(boxes_item)

        _box_labels = d.pop("box_labels", UNSET)
        box_labels: list[SpaceLabel] | Unset = UNSET
        if _box_labels is not UNSET:
            box_labels = []
            for box_labels_item_data in _box_labels:
                box_labels_item = check_space_label(box_labels_item_data)

                box_labels.append(box_labels_item)

        multimask_output = d.pop("multimask_output", UNSET)

        confidence_threshold = d.pop("confidence_threshold", UNSET)

        vectorize = d.pop("vectorize", UNSET)

        simplify_epsilon = d.pop("simplify_epsilon", UNSET)

        space_inputs = cls(
            image=image,
            text_prompts=text_prompts,
            points=points,
            point_labels=point_labels,
            boxes=boxes,
            box_labels=box_labels,
            multimask_output=multimask_output,
            confidence_threshold=confidence_threshold,
            vectorize=vectorize,
            simplify_epsilon=simplify_epsilon,
        )

        space_inputs.additional_properties = d
        return space_inputs

    @property
    def additional_keys(self) -> list[str]:
        return list(self.additional_properties.keys())

    def __getitem__(self, key: str) -> Any:
        return self.additional_properties[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.additional_properties[key] = value

    def __delitem__(self, key: str) -> None:
        del self.additional_properties[key]

    def __contains__(self, key: str) -> bool:
        return key in self.additional_properties
