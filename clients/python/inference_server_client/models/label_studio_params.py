from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.label_studio_context import LabelStudioContext


T = TypeVar("T", bound="LabelStudioParams")


@_attrs_define
class LabelStudioParams:
    """Parameters of a request; other fields are ignored.

    Attributes:
        context (LabelStudioContext | Unset): What the user does in the editor.
    """

    context: LabelStudioContext | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        context: dict[str, Any] | Unset = UNSET
        if not isinstance(self.context, Unset):
            context = self.context.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if context is not UNSET:
            field_dict["context"] = context

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.label_studio_context import LabelStudioContext  # noqa: PLC0415

        d = dict(src_dict)
        _context = d.pop("context", UNSET)
        context: LabelStudioContext | Unset
        if isinstance(_context, Unset):
            context = UNSET
        else:
            context = LabelStudioContext.from_dict(_context)

        label_studio_params = cls(
            context=context,
        )

        label_studio_params.additional_properties = d
        return label_studio_params

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
