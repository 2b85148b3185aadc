from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.job_status_status import JobStatusStatus, check_job_status_status
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.job_metrics import JobMetrics
    from ..models.job_progress import JobProgress


T = TypeVar("T", bound="JobStatus")


@_attrs_define
class JobStatus:
    """The status of a job.

    Attributes:
        request_id (str): Id of the job.
        status (JobStatusStatus): `QUEUED` until a worker claims the job, `PROCESSING` while it runs, `COMPLETED` when
            the result is available. A `FAILED` job is reported with status code 422.
        metrics (JobMetrics): Metrics of a job.
        progress (JobProgress | Unset): How far a job is that works on a raster by windows.
    """

    request_id: str
    status: JobStatusStatus
    metrics: JobMetrics
    progress: JobProgress | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        request_id = self.request_id

        status: str = self.status

        metrics = self.metrics.to_dict()

        progress: dict[str, Any] | Unset = UNSET
        if not isinstance(self.progress, Unset):
            progress = self.progress.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "request_id": request_id,
                "status": status,
                "metrics": metrics,
            }
        )
        if progress is not UNSET:
            field_dict["progress"] = progress

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.job_metrics import JobMetrics  # noqa: PLC0415
        from ..models.job_progress import JobProgress  # noqa: PLC0415

        d = dict(src_dict)
        request_id = d.pop("request_id")

        status = check_job_status_status(d.pop("status"))

        metrics = JobMetrics.from_dict(d.pop("metrics"))

        _progress = d.pop("progress", UNSET)
        progress: JobProgress | Unset
        if isinstance(_progress, Unset):
            progress = UNSET
        else:
            progress = JobProgress.from_dict(_progress)

        job_status = cls(
            request_id=request_id,
            status=status,
            metrics=metrics,
            progress=progress,
        )

        job_status.additional_properties = d
        return job_status

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
