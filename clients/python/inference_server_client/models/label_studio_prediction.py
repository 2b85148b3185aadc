from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.label_studio_region import LabelStudioRegion


T = TypeVar("T", bound="LabelStudioPrediction")


@_attrs_define
class LabelStudioPrediction:
    """The prediction of one task.

    Attributes:
        result (list[LabelStudioRegion]): The regions, best first. For the event `capabilities`, one item whose `value`
            describes the backend.
        score (float): Mean score of the regions; 0 without regions.
        model_version (str): As in the response to `/setup`; with the suffix `-failed` if the task failed, so that Label
            Studio asks for it again.
    """

    result: list[LabelStudioRegion]
    score: float
    model_version: str
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        result = []
        for result_item_data in self.result:
            result_item = result_item_data.to_dict()
            result.append(result_item)

        score = self.score

        model_version = self.model_version

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "result": result,
                "score": score,
                "model_version": model_version,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.label_studio_region import LabelStudioRegion  # noqa: PLC0415

        d = dict(src_dict)
        result = []
        _result = d.pop("result")
        for result_item_data in _result:
            result_item = LabelStudioRegion.from_dict(result_item_data)

            result.append(result_item)

        score = d.pop("score")

        model_version = d.pop("model_version")

        label_studio_prediction = cls(
            result=result,
            score=score,
            model_version=model_version,
        )

        label_studio_prediction.additional_properties = d
        return label_studio_prediction

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
