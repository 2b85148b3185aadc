"""Jobs: requests that are accepted now and answered later."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from schemas.common import WireModel, examples

_ID = "1f0a6c3d5b7e4f8aa1b2c3d4e5f60718"
_URL = f"http://127.0.0.1:9001/v2/requests/{_ID}"
_FILE = f"{_URL}/files/preview.png?expires=1767225600&signature=bm90IGEgcmVhbCBzaWduYXR1cmU"

JobState = Literal["QUEUED", "PROCESSING", "COMPLETED"]


class JobSubmitted(WireModel):
    """A job was accepted. It is done even if the server is restarted meanwhile."""

    model_config = examples(
        {
            "request_id": _ID,
            "status": "QUEUED",
            "status_url": f"{_URL}/status",
            "response_url": _URL,
            "poll_url": f"{_URL}/status",
        }
    )

    request_id: str = Field(description="The job's id.")
    status: Literal["QUEUED"] = Field(description="Always `QUEUED`.")
    status_url: str = Field(description="Where to ask how it stands with the job.")
    response_url: str = Field(description="Where the result will be.")
    poll_url: str = Field(description="The same as `status_url`.")


class JobMetrics(WireModel):
    """What a job took."""

    inference_time: float | None = Field(
        default=None, description="Seconds that the server worked on it; absent until it is done."
    )


class JobStatus(WireModel):
    """How it stands with a job."""

    model_config = examples(
        {"request_id": _ID, "status": "PROCESSING", "metrics": {}},
        {"request_id": _ID, "status": "COMPLETED", "metrics": {"inference_time": 0.42}},
    )

    request_id: str = Field(description="The job's id.")
    status: JobState = Field(
        description="`QUEUED` until a worker takes it, `PROCESSING` until it ends, `COMPLETED` "
        "when the result is there. A job that `FAILED` is answered with 422."
    )
    metrics: JobMetrics = Field(description="What it took.")


class JobImage(WireModel):
    """A file of a result."""

    url: str = Field(description="Its address, good without a key until the result expires.")
    content_type: str = Field(description="Its media type.")
    file_name: str = Field(description="Its name.")
    file_size: int = Field(ge=0, description="Its bytes.")


class JobResult(WireModel):
    """A job and its result, which is kept for an hour."""

    model_config = examples(
        {
            "request_id": _ID,
            "status": "COMPLETED",
            "error": None,
            "output": _FILE,
            "metrics": {"inference_time": 0.42},
            "images": [
                {
                    "url": _FILE,
                    "content_type": "image/png",
                    "file_name": "preview.png",
                    "file_size": 4711,
                }
            ],
        },
        {
            "request_id": _ID,
            "status": "QUEUED",
            "error": None,
            "output": None,
            "metrics": {},
            "images": [],
        },
    )

    request_id: str = Field(description="The job's id.")
    status: JobState = Field(description="As in the job's status.")
    error: None = Field(description="Always null; a job that failed is answered with 422.")
    output: Any = Field(
        description="The address of the file, or a list of addresses where the request asks for "
        "several files. For requests that are answered with JSON: that answer. Null until the "
        "job is done."
    )
    metrics: JobMetrics = Field(description="What it took.")
    images: list[JobImage] = Field(description="The files of the result.")


class JobFailed(WireModel):
    """A job that ended without a result."""

    model_config = examples(
        {"request_id": _ID, "status": "FAILED", "error": "Could not load input image."}
    )

    request_id: str = Field(description="The job's id.")
    status: Literal["FAILED"] = Field(description="Always `FAILED`.")
    error: str = Field(description="What went wrong, and what to do about it.")
