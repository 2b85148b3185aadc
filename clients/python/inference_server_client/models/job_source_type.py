from typing import Literal

JobSourceType = Literal["base64", "file", "url"]

JOB_SOURCE_TYPE_VALUES: set[JobSourceType] = {
    "base64",
    "file",
    "url",
}


def check_job_source_type(value: str) -> JobSourceType:
    if value in JOB_SOURCE_TYPE_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {JOB_SOURCE_TYPE_VALUES!r}")
