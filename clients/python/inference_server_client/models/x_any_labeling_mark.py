from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.x_any_labeling_mark_label import (
    XAnyLabelingMarkLabel,
    check_x_any_labeling_mark_label,
)
from ..models.x_any_labeling_mark_type import (
    XAnyLabelingMarkType,
    check_x_any_labeling_mark_type,
)
from ..types import UNSET, Unset

T = TypeVar("T", bound="XAnyLabelingMark")


@_attrs_define
class XAnyLabelingMark:
    """A point or a rectangle that the user drew.

    Attributes:
        type_ (XAnyLabelingMarkType): What was drawn. `auto_grid` is refused: it belongs to models that run in the
            program.
        data (list[float] | Unset): `[x, y]`, or `[x1, y1, x2, y2]` of opposite corners in any order; in pixels.
        label (XAnyLabelingMarkLabel | Unset): 1 for positive, 0 for negative. Models differ in its meaning. Default: 1.
    """

    type_: XAnyLabelingMarkType
    data: list[float] | Unset = UNSET
    label: XAnyLabelingMarkLabel | Unset = 1
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        type_: str = self.type_

        data: list[float] | Unset = UNSET
        if not isinstance(self.data, Unset):
            data = self.data

        label: int | Unset = UNSET
        if not isinstance(self.label, Unset):
            label = self.label

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "type": type_,
            }
        )
        if data is not UNSET:
            field_dict["data"] = data
        if label is not UNSET:
            field_dict["label"] = label

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        type_ = check_x_any_labeling_mark_type(d.pop("type"))

        data = cast(list[float], d.pop("data", UNSET))

        _label = d.pop("label", UNSET)
        label: XAnyLabelingMarkLabel | Unset
        if isinstance(_label, Unset):
            label = UNSET
        else:
            label = check_x_any_labeling_mark_label(_label)

        x_any_labeling_mark = cls(
            type_=type_,
            data=data,
            label=label,
        )

        x_any_labeling_mark.additional_properties = d
        return x_any_labeling_mark

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
