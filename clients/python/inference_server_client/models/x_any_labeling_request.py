from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.x_any_labeling_params import XAnyLabelingParams


T = TypeVar("T", bound="XAnyLabelingRequest")


@_attrs_define
class XAnyLabelingRequest:
    """An image, the id of a model, and prompts.

    Attributes:
        model (str): Id of a model, as `GET /x-anylabeling/v1/models` lists.
        image (str): The image file as a data URL or in base64; its type is detected.
        api_key (str | Unset): API key. It can also be sent in a header, such as `Token`, or the query string.
        params (XAnyLabelingParams | Unset): Prompts and options. Without words and marks, nothing is found.
    """

    model: str
    image: str
    api_key: str | Unset = UNSET
    params: XAnyLabelingParams | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        model = self.model

        image = self.image

        api_key = self.api_key

        params: dict[str, Any] | Unset = UNSET
        if not isinstance(self.params, Unset):
            params = self.params.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "model": model,
                "image": image,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if params is not UNSET:
            field_dict["params"] = params

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.x_any_labeling_params import XAnyLabelingParams  # noqa: PLC0415

        d = dict(src_dict)
        model = d.pop("model")

        image = d.pop("image")

        api_key = d.pop("api_key", UNSET)

        _params = d.pop("params", UNSET)
        params: XAnyLabelingParams | Unset
        if isinstance(_params, Unset):
            params = UNSET
        else:
            params = XAnyLabelingParams.from_dict(_params)

        x_any_labeling_request = cls(
            model=model,
            image=image,
            api_key=api_key,
            params=params,
        )

        x_any_labeling_request.additional_properties = d
        return x_any_labeling_request

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
