from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.job_source_type import JobSourceType, check_job_source_type

T = TypeVar("T", bound="JobSource")


@_attrs_define
class JobSource:
    """An image, given by URL, as base64, or by its name in the server's directory of rasters.

    Attributes:
        type_ (JobSourceType): How the image is given: by URL, as base64, or as a `file` of the directory that the
            server's administrator chose (`INFERENCE_RASTER_DIRECTORY`).
        value (str): URL of the image, the base64-encoded file, or the name of the file, such as `2026/ortho.tif`.
    """

    type_: JobSourceType
    value: str
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        type_: str = self.type_

        value = self.value

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "type": type_,
                "value": value,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        type_ = check_job_source_type(d.pop("type"))

        value = d.pop("value")

        job_source = cls(
            type_=type_,
            value=value,
        )

        job_source.additional_properties = d
        return job_source

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
