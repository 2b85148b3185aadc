from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.sam_3_prompt_result import Sam3PromptResult


T = TypeVar("T", bound="Sam3SegmentationResponse")


@_attrs_define
class Sam3SegmentationResponse:
    """Instances of each concept, one result per prompt.

    Attributes:
        prompt_results (list[Sam3PromptResult]): One result per prompt, in request order.
        time (float): Processing time in seconds.
    """

    prompt_results: list[Sam3PromptResult]
    time: float
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        prompt_results = []
        for prompt_results_item_data in self.prompt_results:
            prompt_results_item = prompt_results_item_data.to_dict()
            prompt_results.append(prompt_results_item)

        time = self.time

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "prompt_results": prompt_results,
                "time": time,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.sam_3_prompt_result import Sam3PromptResult  # noqa: PLC0415

        d = dict(src_dict)
        prompt_results = []
        _prompt_results = d.pop("prompt_results")
        for prompt_results_item_data in _prompt_results:
            prompt_results_item = Sam3PromptResult.from_dict(prompt_results_item_data)

            prompt_results.append(prompt_results_item)

        time = d.pop("time")

        sam_3_segmentation_response = cls(
            prompt_results=prompt_results,
            time=time,
        )

        sam_3_segmentation_response.additional_properties = d
        return sam_3_segmentation_response

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
