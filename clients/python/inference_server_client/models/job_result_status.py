from typing import Literal

JobResultStatus = Literal["COMPLETED", "PROCESSING", "QUEUED"]

JOB_RESULT_STATUS_VALUES: set[JobResultStatus] = {
    "COMPLETED",
    "PROCESSING",
    "QUEUED",
}


def check_job_result_status(value: str) -> JobResultStatus:
    if value in JOB_RESULT_STATUS_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {JOB_RESULT_STATUS_VALUES!r}")
