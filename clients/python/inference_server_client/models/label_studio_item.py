from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.label_studio_value import LabelStudioValue


T = TypeVar("T", bound="LabelStudioItem")


@_attrs_define
class LabelStudioItem:
    """A prompt that the user made in the editor; other fields are ignored.

    Attributes:
        type_ (str | Unset): Type of the prompt, such as `keypointlabels`. Default: ''.
        from_name (str | Unset): Name of its control tag.
        to_name (str | Unset): Name of the image's tag.
        value (LabelStudioValue | Unset): Position and labels of a prompt, in percent of the image.
        is_positive (bool | Unset): False if the prompt marks what is not wanted.
    """

    type_: str | Unset = ""
    from_name: str | Unset = UNSET
    to_name: str | Unset = UNSET
    value: LabelStudioValue | Unset = UNSET
    is_positive: bool | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        type_ = self.type_

        from_name = self.from_name

        to_name = self.to_name

        value: dict[str, Any] | Unset = UNSET
        if not isinstance(self.value, Unset):
            value = self.value.to_dict()

        is_positive = self.is_positive

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if type_ is not UNSET:
            field_dict["type"] = type_
        if from_name is not UNSET:
            field_dict["from_name"] = from_name
        if to_name is not UNSET:
            field_dict["to_name"] = to_name
        if value is not UNSET:
            field_dict["value"] = value
        if is_positive is not UNSET:
            field_dict["is_positive"] = is_positive

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.label_studio_value import LabelStudioValue  # noqa: PLC0415

        d = dict(src_dict)
        type_ = d.pop("type", UNSET)

        from_name = d.pop("from_name", UNSET)

        to_name = d.pop("to_name", UNSET)

        _value = d.pop("value", UNSET)
        value: LabelStudioValue | Unset
        if isinstance(_value, Unset):
            value = UNSET
        else:
            value = LabelStudioValue.from_dict(_value)

        is_positive = d.pop("is_positive", UNSET)

        label_studio_item = cls(
            type_=type_,
            from_name=from_name,
            to_name=to_name,
            value=value,
            is_positive=is_positive,
        )

        label_studio_item.additional_properties = d
        return label_studio_item

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
