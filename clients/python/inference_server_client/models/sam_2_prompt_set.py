from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.sam_2_prompt import Sam2Prompt


T = TypeVar("T", bound="Sam2PromptSet")


@_attrs_define
class Sam2PromptSet:
    """A list of prompts, wrapped in an object.

    Attributes:
        prompts (list[Sam2Prompt] | Unset): One prompt per object.
    """

    prompts: list[Sam2Prompt] | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        prompts: list[dict[str, Any]] | Unset = UNSET
        if not isinstance(self.prompts, Unset):
            prompts = []
            for prompts_item_data in self.prompts:
                prompts_item = prompts_item_data.to_dict()
                prompts.append(prompts_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if prompts is not UNSET:
            field_dict["prompts"] = prompts

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.sam_2_prompt import Sam2Prompt  # noqa: PLC0415

        d = dict(src_dict)
        _prompts = d.pop("prompts", UNSET)
        prompts: list[Sam2Prompt] | Unset = UNSET
        if _prompts is not UNSET:
            prompts = []
            for prompts_item_data in _prompts:
                prompts_item = Sam2Prompt.from_dict(prompts_item_data)

                prompts.append(prompts_item)

        sam_2_prompt_set = cls(
            prompts=prompts,
        )

        sam_2_prompt_set.additional_properties = d
        return sam_2_prompt_set

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
