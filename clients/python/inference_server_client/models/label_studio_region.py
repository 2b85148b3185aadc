from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.label_studio_region_value import LabelStudioRegionValue


T = TypeVar("T", bound="LabelStudioRegion")


@_attrs_define
class LabelStudioRegion:
    """One region of a prediction.

    Attributes:
        id (str): Random id of the region.
        from_name (str): Name of the control tag.
        to_name (str): Name of the image's tag.
        type_ (str): Type of the control tag, such as `brushlabels`.
        original_width (int): Width of the image in pixels.
        original_height (int): Height of the image in pixels.
        image_rotation (int): Always 0.
        score (float): Confidence, 0 to 1.
        value (LabelStudioRegionValue): The shape of a region; lengths are percent of the image. Its type decides the
            fields.
    """

    id: str
    from_name: str
    to_name: str
    type_: str
    original_width: int
    original_height: int
    image_rotation: int
    score: float
    value: LabelStudioRegionValue
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        from_name = self.from_name

        to_name = self.to_name

        type_ = self.type_

        original_width = self.original_width

        original_height = self.original_height

        image_rotation = self.image_rotation

        score = self.score

        value = self.value.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "id": id,
                "from_name": from_name,
                "to_name": to_name,
                "type": type_,
                "original_width": original_width,
                "original_height": original_height,
                "image_rotation": image_rotation,
                "score": score,
                "value": value,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.label_studio_region_value import LabelStudioRegionValue  # noqa: PLC0415

        d = dict(src_dict)
        id = d.pop("id")

        from_name = d.pop("from_name")

        to_name = d.pop("to_name")

        type_ = d.pop("type")

        original_width = d.pop("original_width")

        original_height = d.pop("original_height")

        image_rotation = d.pop("image_rotation")

        score = d.pop("score")

        value = LabelStudioRegionValue.from_dict(d.pop("value"))

        label_studio_region = cls(
            id=id,
            from_name=from_name,
            to_name=to_name,
            type_=type_,
            original_width=original_width,
            original_height=original_height,
            image_rotation=image_rotation,
            score=score,
            value=value,
        )

        label_studio_region.additional_properties = d
        return label_studio_region

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
