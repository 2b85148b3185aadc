from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.sam_3_prompt_echo_type import (
    Sam3PromptEchoType,
    check_sam_3_prompt_echo_type,
)
from ..types import UNSET, Unset

T = TypeVar("T", bound="Sam3PromptEcho")


@_attrs_define
class Sam3PromptEcho:
    """Summary of the prompt that a result belongs to.

    Attributes:
        prompt_index (int): Zero-based position of the prompt in the request.
        type_ (Sam3PromptEchoType): Type of the prompt, given or inferred.
        num_boxes (int): Number of boxes in the prompt.
        text (str | Unset): Text of the prompt; absent without text.
    """

    prompt_index: int
    type_: Sam3PromptEchoType
    num_boxes: int
    text: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        prompt_index = self.prompt_index

        type_: str = self.type_

        num_boxes = self.num_boxes

        text = self.text

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "prompt_index": prompt_index,
                "type": type_,
                "num_boxes": num_boxes,
            }
        )
        if text is not UNSET:
            field_dict["text"] = text

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        prompt_index = d.pop("prompt_index")

        type_ = check_sam_3_prompt_echo_type(d.pop("type"))

        num_boxes = d.pop("num_boxes")

        text = d.pop("text", UNSET)

        sam_3_prompt_echo = cls(
            prompt_index=prompt_index,
            type_=type_,
            num_boxes=num_boxes,
            text=text,
        )

        sam_3_prompt_echo.additional_properties = d
        return sam_3_prompt_echo

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
