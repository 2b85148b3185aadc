from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.label_studio_setup_request_extra_params import (
        LabelStudioSetupRequestExtraParams,
    )


T = TypeVar("T", bound="LabelStudioSetupRequest")


@_attrs_define
class LabelStudioSetupRequest:
    """A project's configuration, which Label Studio sends before batches.

    Attributes:
        schema (str): Label configuration (XML).
        api_key (str | Unset): API key. Label Studio sends it by HTTP Basic instead.
        project (str | Unset): Id of the project.
        extra_params (LabelStudioSetupRequestExtraParams | Unset): Parameters of the backend; see the documentation.
    """

    schema: str
    api_key: str | Unset = UNSET
    project: str | Unset = UNSET
    extra_params: LabelStudioSetupRequestExtraParams | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        schema = self.schema

        api_key = self.api_key

        project = self.project

        extra_params: dict[str, Any] | Unset = UNSET
        if not isinstance(self.extra_params, Unset):
            extra_params = self.extra_params.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "schema": schema,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if project is not UNSET:
            field_dict["project"] = project
        if extra_params is not UNSET:
            field_dict["extra_params"] = extra_params

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.label_studio_setup_request_extra_params import (
            LabelStudioSetupRequestExtraParams,  # noqa: PLC0415
        )

        d = dict(src_dict)
        schema = d.pop("schema")

        api_key = d.pop("api_key", UNSET)

        project = d.pop("project", UNSET)

        _extra_params = d.pop("extra_params", UNSET)
        extra_params: LabelStudioSetupRequestExtraParams | Unset
        if isinstance(_extra_params, Unset):
            extra_params = UNSET
        else:
            extra_params = LabelStudioSetupRequestExtraParams.from_dict(_extra_params)

        label_studio_setup_request = cls(
            schema=schema,
            api_key=api_key,
            project=project,
            extra_params=extra_params,
        )

        label_studio_setup_request.additional_properties = d
        return label_studio_setup_request

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
