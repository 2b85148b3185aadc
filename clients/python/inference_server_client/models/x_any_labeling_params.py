from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.x_any_labeling_mark import XAnyLabelingMark


T = TypeVar("T", bound="XAnyLabelingParams")


@_attrs_define
class XAnyLabelingParams:
    """Prompts and options. Without words and marks, nothing is found.

    Attributes:
        conf_threshold (float | Unset): Minimum confidence of objects that words or exemplars find. 0 stands for the
            default, 0.25: the program sends it if the model has no such control. Default: 0.0.
        iou_threshold (float | Unset): Remove an object that overlaps a more confident one by more than this IoU. 0
            keeps all. Default: 0.0.
        epsilon_factor (float | Unset): How far a polygon may deviate from the mask's outline, as a part of the
            outline's length. Default: 0.001.
        text_prompt (str | Unset): Concepts, separated by commas or, without a comma, by full stops. Default: ''.
        marks (list[XAnyLabelingMark] | Unset): Points and rectangles. `segment_anything_2` segments the object at the
            points or in each rectangle; for `segment_anything_3`, rectangles are exemplars.
    """

    conf_threshold: float | Unset = 0.0
    iou_threshold: float | Unset = 0.0
    epsilon_factor: float | Unset = 0.001
    text_prompt: str | Unset = ""
    marks: list[XAnyLabelingMark] | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        conf_threshold = self.conf_threshold

        iou_threshold = self.iou_threshold

        epsilon_factor = self.epsilon_factor

        text_prompt = self.text_prompt

        marks: list[dict[str, Any]] | Unset = UNSET
        if not isinstance(self.marks, Unset):
            marks = []
            for marks_item_data in self.marks:
                marks_item = marks_item_data.to_dict()
                marks.append(marks_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if conf_threshold is not UNSET:
            field_dict["conf_threshold"] = conf_threshold
        if iou_threshold is not UNSET:
            field_dict["iou_threshold"] = iou_threshold
        if epsilon_factor is not UNSET:
            field_dict["epsilon_factor"] = epsilon_factor
        if text_prompt is not UNSET:
            field_dict["text_prompt"] = text_prompt
        if marks is not UNSET:
            field_dict["marks"] = marks

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.x_any_labeling_mark import XAnyLabelingMark  # noqa: PLC0415

        d = dict(src_dict)
        conf_threshold = d.pop("conf_threshold", UNSET)

        iou_threshold = d.pop("iou_threshold", UNSET)

        epsilon_factor = d.pop("epsilon_factor", UNSET)

        text_prompt = d.pop("text_prompt", UNSET)

        _marks = d.pop("marks", UNSET)
        marks: list[XAnyLabelingMark] | Unset = UNSET
        if _marks is not UNSET:
            marks = []
            for marks_item_data in _marks:
                marks_item = XAnyLabelingMark.from_dict(marks_item_data)

                marks.append(marks_item)

        x_any_labeling_params = cls(
            conf_threshold=conf_threshold,
            iou_threshold=iou_threshold,
            epsilon_factor=epsilon_factor,
            text_prompt=text_prompt,
            marks=marks,
        )

        x_any_labeling_params.additional_properties = d
        return x_any_labeling_params

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
