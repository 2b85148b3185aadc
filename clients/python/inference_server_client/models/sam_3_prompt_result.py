from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.sam_3_prompt_echo import Sam3PromptEcho
    from ..models.segmentation_prediction import SegmentationPrediction


T = TypeVar("T", bound="Sam3PromptResult")


@_attrs_define
class Sam3PromptResult:
    """Instances found for one concept.

    Attributes:
        prompt_index (int): Zero-based position of the prompt in the request.
        echo (Sam3PromptEcho): Summary of the prompt that a result belongs to.
        predictions (list[SegmentationPrediction]): One entry per instance, highest score first; empty if none was
            found.
    """

    prompt_index: int
    echo: Sam3PromptEcho
    predictions: list[SegmentationPrediction]
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        prompt_index = self.prompt_index

        echo = self.echo.to_dict()

        predictions = []
        for predictions_item_data in self.predictions:
            predictions_item = predictions_item_data.to_dict()
            predictions.append(predictions_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "prompt_index": prompt_index,
                "echo": echo,
                "predictions": predictions,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.sam_3_prompt_echo import Sam3PromptEcho  # noqa: PLC0415
        from ..models.segmentation_prediction import SegmentationPrediction  # noqa: PLC0415

        d = dict(src_dict)
        prompt_index = d.pop("prompt_index")

        echo = Sam3PromptEcho.from_dict(d.pop("echo"))

        predictions = []
        _predictions = d.pop("predictions")
        for predictions_item_data in _predictions:
            predictions_item = SegmentationPrediction.from_dict(predictions_item_data)

            predictions.append(predictions_item)

        sam_3_prompt_result = cls(
            prompt_index=prompt_index,
            echo=echo,
            predictions=predictions,
        )

        sam_3_prompt_result.additional_properties = d
        return sam_3_prompt_result

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
