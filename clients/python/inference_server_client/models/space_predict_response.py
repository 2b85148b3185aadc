from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.space_response import SpaceResponse


T = TypeVar("T", bound="SpacePredictResponse")


@_attrs_define
class SpacePredictResponse:
    """The segmented objects in Gradio's response format.

    Attributes:
        data (list[SpaceResponse]): A list with one entry: the segmented objects.
        is_generating (bool): Always false: the response is complete.
        duration (float): Processing time in seconds.
        average_duration (float): Average processing time of such requests, in seconds.
    """

    data: list[SpaceResponse]
    is_generating: bool
    duration: float
    average_duration: float
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        data = []
        for data_item_data in self.data:
            data_item = data_item_data.to_dict()
            data.append(data_item)

        is_generating = self.is_generating

        duration = self.duration

        average_duration = self.average_duration

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "data": data,
                "is_generating": is_generating,
                "duration": duration,
                "average_duration": average_duration,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.space_response import SpaceResponse  # noqa: PLC0415

        d = dict(src_dict)
        data = []
        _data = d.pop("data")
        for data_item_data in _data:
            data_item = SpaceResponse.from_dict(data_item_data)

            data.append(data_item)

        is_generating = d.pop("is_generating")

        duration = d.pop("duration")

        average_duration = d.pop("average_duration")

        space_predict_response = cls(
            data=data,
            is_generating=is_generating,
            duration=duration,
            average_duration=average_duration,
        )

        space_predict_response.additional_properties = d
        return space_predict_response

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
