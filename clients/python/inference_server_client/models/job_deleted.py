from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.job_deleted_status import JobDeletedStatus, check_job_deleted_status

T = TypeVar("T", bound="JobDeleted")


@_attrs_define
class JobDeleted:
    """The job was cancelled, or its result deleted. It is unknown from now on.

    Attributes:
        request_id (str): Id of the job.
        status (JobDeletedStatus): Status that the job had: `QUEUED` and `PROCESSING` were cancelled.
    """

    request_id: str
    status: JobDeletedStatus
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        request_id = self.request_id

        status: str = self.status

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "request_id": request_id,
                "status": status,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        request_id = d.pop("request_id")

        status = check_job_deleted_status(d.pop("status"))

        job_deleted = cls(
            request_id=request_id,
            status=status,
        )

        job_deleted.additional_properties = d
        return job_deleted

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
