from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.space_inputs import SpaceInputs


T = TypeVar("T", bound="SpaceRequest")


@_attrs_define
class SpaceRequest:
    """A request to the Space's SAM 2 compatible API.

    Attributes:
        inputs (SpaceInputs): An image and prompts. At least one of `text_prompts`, `boxes` and `points` is required.
        api_key (str | Unset): API key. It can also be sent in a header or the query string.
    """

    inputs: SpaceInputs
    api_key: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        inputs = self.inputs.to_dict()

        api_key = self.api_key

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "inputs": inputs,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.space_inputs import SpaceInputs  # noqa: PLC0415

        d = dict(src_dict)
        inputs = SpaceInputs.from_dict(d.pop("inputs"))

        api_key = d.pop("api_key", UNSET)

        space_request = cls(
            inputs=inputs,
            api_key=api_key,
        )

        space_request.additional_properties = d
        return space_request

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
