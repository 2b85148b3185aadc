from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.box_label_number import BoxLabelNumber, check_box_label_number
from ..models.sam_3_prompt_type import Sam3PromptType, check_sam_3_prompt_type
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.corner_box import CornerBox
    from ..models.top_left_box import TopLeftBox


T = TypeVar("T", bound="Sam3Prompt")


@_attrs_define
class Sam3Prompt:
    """A concept, given by text, exemplar boxes, or both.

    Attributes:
        type_ (Sam3PromptType | Unset): Type of the prompt; inferred if absent. A `visual` prompt needs at least one
            box.
        text (str | Unset): What to find: a short noun phrase, such as `red car`.
        boxes (list[CornerBox | TopLeftBox] | Unset): Boxes around exemplars of the concept.
        box_labels (list[bool | BoxLabelNumber] | Unset): One label per box: positive exemplar (1, true) or negative
            exemplar (0, false). Without it, all boxes are positive.
        output_prob_thresh (float | Unset): Minimum score of this prompt's predictions; overrides the request's.
    """

    type_: Sam3PromptType | Unset = UNSET
    text: str | Unset = UNSET
    boxes: list[CornerBox | TopLeftBox] | Unset = UNSET
    box_labels: list[bool | BoxLabelNumber] | Unset = UNSET
    output_prob_thresh: float | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.top_left_box import TopLeftBox  # noqa: PLC0415

        type_: str | Unset = UNSET
        if not isinstance(self.type_, Unset):
            type_ = self.type_

        text = self.text

        boxes: list[dict[str, Any]] | Unset = UNSET
        if not isinstance(self.boxes, Unset):
            boxes = []
            for boxes_item_data in self.boxes:
                boxes_item: dict[str, Any]
                if isinstance(boxes_item_data, TopLeftBox):
                    boxes_item = boxes_item_data.to_dict()
                else:
                    boxes_item = boxes_item_data.to_dict()

                boxes.append(boxes_item)

        box_labels: list[bool | int] | Unset = UNSET
        if not isinstance(self.box_labels, Unset):
            box_labels = []
            for box_labels_item_data in self.box_labels:
                box_labels_item: bool | int
                if isinstance(box_labels_item_data, int):
                    box_labels_item = box_labels_item_data
                else:
                    box_labels_item = box_labels_item_data
                box_labels.append(box_labels_item)

        output_prob_thresh = self.output_prob_thresh

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if type_ is not UNSET:
            field_dict["type"] = type_
        if text is not UNSET:
            field_dict["text"] = text
        if boxes is not UNSET:
            field_dict["boxes"] = boxes
        if box_labels is not UNSET:
            field_dict["box_labels"] = box_labels
        if output_prob_thresh is not UNSET:
            field_dict["output_prob_thresh"] = output_prob_thresh

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.corner_box import CornerBox  # noqa: PLC0415
        from ..models.top_left_box import TopLeftBox  # noqa: PLC0415

        d = dict(src_dict)
        _type_ = d.pop("type", UNSET)
        type_: Sam3PromptType | Unset
        if isinstance(_type_, Unset):
            type_ = UNSET
        else:
            type_ = check_sam_3_prompt_type(_type_)

        text = d.pop("text", UNSET)

        _boxes = d.pop("boxes", UNSET)
        boxes: list[CornerBox | TopLeftBox] | Unset = UNSET
        if _boxes is not UNSET:
            boxes = []
            for boxes_item_data in _boxes:

                def _parse_boxes_item(data: object) -> CornerBox | TopLeftBox:
                    try:
                        if not isinstance(data, dict):
                            raise TypeError()
                        componentsschemas_concept_box_type_0 = TopLeftBox.from_dict(data)

                        return componentsschemas_concept_box_type_0
                    except (TypeError, ValueError, AttributeError, KeyError):
                        pass
                    if not isinstance(data, dict):
                        raise TypeError()
                    componentsschemas_concept_box_type_1 = CornerBox.from_dict(data)

                    return componentsschemas_concept_box_type_1

                boxes_item = _parse_boxes_item(boxes_item_data)

                boxes.append(boxes_item)

        _box_labels = d.pop("box_labels", UNSET)
        box_labels: list[bool | BoxLabelNumber] | Unset = UNSET
        if _box_labels is not UNSET:
            box_labels = []
            for box_labels_item_data in _box_labels:

                def _parse_box_labels_item(data: object) -> bool | BoxLabelNumber:
                    try:
                        if not isinstance(data, int):
                            raise TypeError()
                        componentsschemas_box_label_type_0 = check_box_label_number(data)

                        return componentsschemas_box_label_type_0
                    except (TypeError, ValueError, AttributeError, KeyError):
                        pass
                    return cast(bool | BoxLabelNumber, data)

                box_labels_item = _parse_box_labels_item(box_labels_item_data)

                box_labels.append(box_labels_item)

        output_prob_thresh = d.pop("output_prob_thresh", UNSET)

        sam_3_prompt = cls(
            type_=type_,
            text=text,
            boxes=boxes,
            box_labels=box_labels,
            output_prob_thresh=output_prob_thresh,
        )

        sam_3_prompt.additional_properties = d
        return sam_3_prompt

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
