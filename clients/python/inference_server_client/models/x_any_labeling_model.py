from __future__ import annotations

from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeVar,
    cast,
)

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.x_any_labeling_model_capabilities import XAnyLabelingModelCapabilities
    from ..models.x_any_labeling_model_params import XAnyLabelingModelParams
    from ..models.x_any_labeling_widget import XAnyLabelingWidget


T = TypeVar("T", bound="XAnyLabelingModel")


@_attrs_define
class XAnyLabelingModel:
    """A model, and the controls for it.

    Attributes:
        display_name (str): Name in the program's menu.
        widgets (list[XAnyLabelingWidget]): The controls.
        params (XAnyLabelingModelParams): Always empty.
        capabilities (XAnyLabelingModelCapabilities): Always empty.
        batch_processing_mode (Literal['text_prompt'] | None): `text_prompt` if the program may run all images, and asks
            once for the words; null if it cannot.
    """

    display_name: str
    widgets: list[XAnyLabelingWidget]
    params: XAnyLabelingModelParams
    capabilities: XAnyLabelingModelCapabilities
    batch_processing_mode: Literal["text_prompt"] | None
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        display_name = self.display_name

        widgets = []
        for widgets_item_data in self.widgets:
            widgets_item = widgets_item_data.to_dict()
            widgets.append(widgets_item)

        params = self.params.to_dict()

        capabilities = self.capabilities.to_dict()

        batch_processing_mode: Literal["text_prompt"] | None
        batch_processing_mode = self.batch_processing_mode

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "display_name": display_name,
                "widgets": widgets,
                "params": params,
                "capabilities": capabilities,
                "batch_processing_mode": batch_processing_mode,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.x_any_labeling_model_capabilities import (
            XAnyLabelingModelCapabilities,  # noqa: PLC0415
        )
        from ..models.x_any_labeling_model_params import XAnyLabelingModelParams  # noqa: PLC0415
        from ..models.x_any_labeling_widget import XAnyLabelingWidget  # noqa: PLC0415

        d = dict(src_dict)
        display_name = d.pop("display_name")

        widgets = []
        _widgets = d.pop("widgets")
        for widgets_item_data in _widgets:
            widgets_item = XAnyLabelingWidget.from_dict(widgets_item_data)

            widgets.append(widgets_item)

        params = XAnyLabelingModelParams.from_dict(d.pop("params"))

        capabilities = XAnyLabelingModelCapabilities.from_dict(d.pop("capabilities"))

        def _parse_batch_processing_mode(data: object) -> Literal["text_prompt"] | None:
            if data is None:
                return data
            batch_processing_mode_type_0 = cast(Literal["text_prompt"], data)
            if batch_processing_mode_type_0 != "text_prompt":
                raise ValueError(
                    f"batch_processing_mode_type_0 must match const 'text_prompt', got '{batch_processing_mode_type_0}'"
                )
            return batch_processing_mode_type_0
            return cast(Literal["text_prompt"] | None, data)

        batch_processing_mode = _parse_batch_processing_mode(d.pop("batch_processing_mode"))

        x_any_labeling_model = cls(
            display_name=display_name,
            widgets=widgets,
            params=params,
            capabilities=capabilities,
            batch_processing_mode=batch_processing_mode,
        )

        x_any_labeling_model.additional_properties = d
        return x_any_labeling_model

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
