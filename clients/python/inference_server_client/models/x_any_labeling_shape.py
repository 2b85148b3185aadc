from __future__ import annotations

from collections.abc import Mapping
from typing import (
    Any,
    Literal,
    TypeVar,
    cast,
)

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="XAnyLabelingShape")


@_attrs_define
class XAnyLabelingShape:
    """A polygon around a part of an object.

    Attributes:
        label (str): The concept, or `AUTOLABEL_OBJECT` for marks: the program then asks for a name, and replaces the
            shape at the next click.
        shape_type (Literal['polygon']): Always `polygon`.
        points (list[list[float]]): `[x, y]` in pixels, at least three; holes are not kept.
        score (float): Confidence, or predicted IoU for marks; 0 to 1.
        group_id (int | Unset): The same number, greater than 0, for all parts of an object; absent if it has one part.
    """

    label: str
    shape_type: Literal["polygon"]
    points: list[list[float]]
    score: float
    group_id: int | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        label = self.label

        shape_type = self.shape_type

        points = []
        for points_item_data in self.points:
            points_item = points_item_data

            points.append(points_item)

        score = self.score

        group_id = self.group_id

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "label": label,
                "shape_type": shape_type,
                "points": points,
                "score": score,
            }
        )
        if group_id is not UNSET:
            field_dict["group_id"] = group_id

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        label = d.pop("label")

        shape_type = cast(Literal["polygon"], d.pop("shape_type"))
        if shape_type != "polygon":
            raise ValueError(f"shape_type must match const 'polygon', got '{shape_type}'")

        points = []
        _points = d.pop("points")
        for points_item_data in _points:
            points_item = cast(list[float], points_item_data)

            points.append(points_item)

        score = d.pop("score")

        group_id = d.pop("group_id", UNSET)

        x_any_labeling_shape = cls(
            label=label,
            shape_type=shape_type,
            points=points,
            score=score,
            group_id=group_id,
        )

        x_any_labeling_shape.additional_properties = d
        return x_any_labeling_shape

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
