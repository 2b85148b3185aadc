from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.detection import Detection


T = TypeVar("T", bound="DetectionList")


@_attrs_define
class DetectionList:
    """Objects as boxes in pixels: `output_format=json`.

    Attributes:
        image_width (int): Width of the image, in pixels.
        image_height (int): Height of the image, in pixels.
        num_detections (int): Number of objects.
        detections (list[Detection]): One entry per object.
    """

    image_width: int
    image_height: int
    num_detections: int
    detections: list[Detection]
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        image_width = self.image_width

        image_height = self.image_height

        num_detections = self.num_detections

        detections = []
        for detections_item_data in self.detections:
            detections_item = detections_item_data.to_dict()
            detections.append(detections_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "image_width": image_width,
                "image_height": image_height,
                "num_detections": num_detections,
                "detections": detections,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.detection import Detection  # noqa: PLC0415

        d = dict(src_dict)
        image_width = d.pop("image_width")

        image_height = d.pop("image_height")

        num_detections = d.pop("num_detections")

        detections = []
        _detections = d.pop("detections")
        for detections_item_data in _detections:
            detections_item = Detection.from_dict(detections_item_data)

            detections.append(detections_item)

        detection_list = cls(
            image_width=image_width,
            image_height=image_height,
            num_detections=num_detections,
            detections=detections,
        )

        detection_list.additional_properties = d
        return detection_list

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
