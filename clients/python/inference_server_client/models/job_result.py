from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.job_result_status import JobResultStatus, check_job_result_status
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.job_image import JobImage
    from ..models.job_metrics import JobMetrics
    from ..models.job_progress import JobProgress


T = TypeVar("T", bound="JobResult")


@_attrs_define
class JobResult:
    """A job with its result. Results expire after one hour.

    Attributes:
        request_id (str): Id of the job.
        status (JobResultStatus): Status of the job; see `JobStatus`.
        error (None): Always null; a failed job is reported with status code 422.
        output (Any): URL of the result file, or a list of URLs if the request asks for several files. For requests with
            a JSON response: that response. Null until the job is done.
        metrics (JobMetrics): Metrics of a job.
        images (list[JobImage]): Files of the result.
        progress (JobProgress | Unset): How far a job is that works on a raster by windows.
    """

    request_id: str
    status: JobResultStatus
    error: None
    output: Any
    metrics: JobMetrics
    images: list[JobImage]
    progress: JobProgress | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        request_id = self.request_id

        status: str = self.status

        error = self.error

        output = self.output

        metrics = self.metrics.to_dict()

        images = []
        for images_item_data in self.images:
            images_item = images_item_data.to_dict()
            images.append(images_item)

        progress: dict[str, Any] | Unset = UNSET
        if not isinstance(self.progress, Unset):
            progress = self.progress.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "request_id": request_id,
                "status": status,
                "error": error,
                "output": output,
                "metrics": metrics,
                "images": images,
            }
        )
        if progress is not UNSET:
            field_dict["progress"] = progress

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.job_image import JobImage  # noqa: PLC0415
        from ..models.job_metrics import JobMetrics  # noqa: PLC0415
        from ..models.job_progress import JobProgress  # noqa: PLC0415

        d = dict(src_dict)
        request_id = d.pop("request_id")

        status = check_job_result_status(d.pop("status"))

        error = d.pop("error")

        output = d.pop("output")

        metrics = JobMetrics.from_dict(d.pop("metrics"))

        images = []
        _images = d.pop("images")
        for images_item_data in _images:
            images_item = JobImage.from_dict(images_item_data)

            images.append(images_item)

        _progress = d.pop("progress", UNSET)
        progress: JobProgress | Unset
        if isinstance(_progress, Unset):
            progress = UNSET
        else:
            progress = JobProgress.from_dict(_progress)

        job_result = cls(
            request_id=request_id,
            status=status,
            error=error,
            output=output,
            metrics=metrics,
            images=images,
            progress=progress,
        )

        job_result.additional_properties = d
        return job_result

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
