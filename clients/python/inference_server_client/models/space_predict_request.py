from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="SpacePredictRequest")


@_attrs_define
class SpacePredictRequest:
    """A text prompt in Gradio's request format.

    Attributes:
        data (list[float | str]): Image, concept and minimum score of a mask (optional, default 0.5), in this order.
        api_key (str | Unset): API key. It can also be sent in a header or the query string.
    """

    data: list[float | str]
    api_key: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        data = []
        for data_item_data in self.data:
            data_item: float | str
            data_item = data_item_data
            data.append(data_item)

        api_key = self.api_key

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "data": data,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        data = []
        _data = d.pop("data")
        for data_item_data in _data:

            def _parse_data_item(data: object) -> float | str:
                return cast(float | str, data)

            data_item = _parse_data_item(data_item_data)

            data.append(data_item)

        api_key = d.pop("api_key", UNSET)

        space_predict_request = cls(
            data=data,
            api_key=api_key,
        )

        space_predict_request.additional_properties = d
        return space_predict_request

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
