from typing import Literal

JobDeletedStatus = Literal["COMPLETED", "FAILED", "PROCESSING", "QUEUED"]

JOB_DELETED_STATUS_VALUES: set[JobDeletedStatus] = {
    "COMPLETED",
    "FAILED",
    "PROCESSING",
    "QUEUED",
}


def check_job_deleted_status(value: str) -> JobDeletedStatus:
    if value in JOB_DELETED_STATUS_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {JOB_DELETED_STATUS_VALUES!r}")
