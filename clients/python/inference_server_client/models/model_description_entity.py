from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="ModelDescriptionEntity")


@_attrs_define
class ModelDescriptionEntity:
    """A model in memory.

    Attributes:
        model_id (str): Id of the model in requests.
        task_type (str): What the model does: `unsupervised-segmentation`, as Roboflow calls the task of SAM.
        batch_size (int | Unset): Maximum number of images per encoder batch.
        input_height (int | Unset): Height of the model's input in pixels.
        input_width (int | Unset): Width of the model's input in pixels.
    """

    model_id: str
    task_type: str
    batch_size: int | Unset = UNSET
    input_height: int | Unset = UNSET
    input_width: int | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        model_id = self.model_id

        task_type = self.task_type

        batch_size = self.batch_size

        input_height = self.input_height

        input_width = self.input_width

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "model_id": model_id,
                "task_type": task_type,
            }
        )
        if batch_size is not UNSET:
            field_dict["batch_size"] = batch_size
        if input_height is not UNSET:
            field_dict["input_height"] = input_height
        if input_width is not UNSET:
            field_dict["input_width"] = input_width

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        model_id = d.pop("model_id")

        task_type = d.pop("task_type")

        batch_size = d.pop("batch_size", UNSET)

        input_height = d.pop("input_height", UNSET)

        input_width = d.pop("input_width", UNSET)

        model_description_entity = cls(
            model_id=model_id,
            task_type=task_type,
            batch_size=batch_size,
            input_height=input_height,
            input_width=input_width,
        )

        model_description_entity.additional_properties = d
        return model_description_entity

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
