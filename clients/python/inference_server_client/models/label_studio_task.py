from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.label_studio_task_data import LabelStudioTaskData


T = TypeVar("T", bound="LabelStudioTask")


@_attrs_define
class LabelStudioTask:
    """A task; other fields are ignored.

    Attributes:
        id (int | Unset): Id of the task.
        data (LabelStudioTaskData | Unset): The task's columns, by name.
    """

    id: int | Unset = UNSET
    data: LabelStudioTaskData | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        data: dict[str, Any] | Unset = UNSET
        if not isinstance(self.data, Unset):
            data = self.data.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if id is not UNSET:
            field_dict["id"] = id
        if data is not UNSET:
            field_dict["data"] = data

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.label_studio_task_data import LabelStudioTaskData  # noqa: PLC0415

        d = dict(src_dict)
        id = d.pop("id", UNSET)

        _data = d.pop("data", UNSET)
        data: LabelStudioTaskData | Unset
        if isinstance(_data, Unset):
            data = UNSET
        else:
            data = LabelStudioTaskData.from_dict(_data)

        label_studio_task = cls(
            id=id,
            data=data,
        )

        label_studio_task.additional_properties = d
        return label_studio_task

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
