from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.x_any_labeling_shape import XAnyLabelingShape


T = TypeVar("T", bound="XAnyLabelingResult")


@_attrs_define
class XAnyLabelingResult:
    """The shapes found, and what becomes of those on the image.

    Attributes:
        shapes (list[XAnyLabelingShape]): The shapes; empty if nothing was found.
        description (str): Always empty: the program would save it with the image.
        replace (bool | Unset): False adds the shapes to those on the image. Absent, which is the case for words that
            were found, leaves the choice to the program's own switch.
    """

    shapes: list[XAnyLabelingShape]
    description: str
    replace: bool | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        shapes = []
        for shapes_item_data in self.shapes:
            shapes_item = shapes_item_data.to_dict()
            shapes.append(shapes_item)

        description = self.description

        replace = self.replace

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "shapes": shapes,
                "description": description,
            }
        )
        if replace is not UNSET:
            field_dict["replace"] = replace

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.x_any_labeling_shape import XAnyLabelingShape  # noqa: PLC0415

        d = dict(src_dict)
        shapes = []
        _shapes = d.pop("shapes")
        for shapes_item_data in _shapes:
            shapes_item = XAnyLabelingShape.from_dict(shapes_item_data)

            shapes.append(shapes_item)

        description = d.pop("description")

        replace = d.pop("replace", UNSET)

        x_any_labeling_result = cls(
            shapes=shapes,
            description=description,
            replace=replace,
        )

        x_any_labeling_result.additional_properties = d
        return x_any_labeling_result

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
