from __future__ import annotations

from collections.abc import Mapping
from typing import (
    Any,
    Literal,
    TypeVar,
    cast,
)

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="JobSubmitted")


@_attrs_define
class JobSubmitted:
    """The job was queued. It survives a restart of the server.

    Attributes:
        request_id (str): Id of the job.
        status (Literal['QUEUED']): Always `QUEUED`.
        status_url (str): URL of the job's status.
        response_url (str): URL of the job's result.
        poll_url (str): Same as `status_url`.
    """

    request_id: str
    status: Literal["QUEUED"]
    status_url: str
    response_url: str
    poll_url: str
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        request_id = self.request_id

        status = self.status

        status_url = self.status_url

        response_url = self.response_url

        poll_url = self.poll_url

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "request_id": request_id,
                "status": status,
                "status_url": status_url,
                "response_url": response_url,
                "poll_url": poll_url,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        request_id = d.pop("request_id")

        status = cast(Literal["QUEUED"], d.pop("status"))
        if status != "QUEUED":
            raise ValueError(f"status must match const 'QUEUED', got '{status}'")

        status_url = d.pop("status_url")

        response_url = d.pop("response_url")

        poll_url = d.pop("poll_url")

        job_submitted = cls(
            request_id=request_id,
            status=status,
            status_url=status_url,
            response_url=response_url,
            poll_url=poll_url,
        )

        job_submitted.additional_properties = d
        return job_submitted

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
