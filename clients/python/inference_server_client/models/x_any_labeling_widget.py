from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="XAnyLabelingWidget")


@_attrs_define
class XAnyLabelingWidget:
    """A control that the program shows while a model is selected.

    Attributes:
        name (str): Its name in the program.
        value (bool | float | Unset): Initial value.
        placeholder (str | Unset): Hint in an empty text field.
    """

    name: str
    value: bool | float | Unset = UNSET
    placeholder: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        name = self.name

        value: bool | float | Unset
        if isinstance(self.value, Unset):
            value = UNSET
        else:
            value = self.value

        placeholder = self.placeholder

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "name": name,
            }
        )
        if value is not UNSET:
            field_dict["value"] = value
        if placeholder is not UNSET:
            field_dict["placeholder"] = placeholder

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        name = d.pop("name")

        def _parse_value(data: object) -> bool | float | Unset:
            if isinstance(data, Unset):
                return data
            return cast(bool | float | Unset, data)

        value = _parse_value(d.pop("value", UNSET))

        placeholder = d.pop("placeholder", UNSET)

        x_any_labeling_widget = cls(
            name=name,
            value=value,
            placeholder=placeholder,
        )

        x_any_labeling_widget.additional_properties = d
        return x_any_labeling_widget

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
