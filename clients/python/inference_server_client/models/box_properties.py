from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="BoxProperties")


@_attrs_define
class BoxProperties:
    """Id, score and box of an object.

    Attributes:
        id (int): Number of the object, starting at 1.
        bbox_pixel (list[float]): `[x1, y1, x2, y2]` in pixels.
        value (float | Unset): Object id in rasters.
        score (float | Unset): Confidence from 0 to 1.
    """

    id: int
    bbox_pixel: list[float]
    value: float | Unset = UNSET
    score: float | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        bbox_pixel = self.bbox_pixel

        value = self.value

        score = self.score

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "id": id,
                "bbox_pixel": bbox_pixel,
            }
        )
        if value is not UNSET:
            field_dict["value"] = value
        if score is not UNSET:
            field_dict["score"] = score

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        id = d.pop("id")

        bbox_pixel = cast(list[float], d.pop("bbox_pixel"))

        value = d.pop("value", UNSET)

        score = d.pop("score", UNSET)

        box_properties = cls(
            id=id,
            bbox_pixel=bbox_pixel,
            value=value,
            score=score,
        )

        box_properties.additional_properties = d
        return box_properties

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
