"""Jobs: asynchronous requests, whose result is fetched later."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from schemas.common import WireModel, examples

_ID = "1f0a6c3d5b7e4f8aa1b2c3d4e5f60718"
_URL = f"http://127.0.0.1:9001/v2/requests/{_ID}"
_FILE = f"{_URL}/files/preview.png?expires=1767225600&signature=bm90IGEgcmVhbCBzaWduYXR1cmU"

_PROGRESS = {"share": 0.25, "done": 250, "total": 1000, "skipped": 31, "objects": 97}

JobState = Literal["QUEUED", "PROCESSING", "COMPLETED"]


class JobSubmitted(WireModel):
    """The job was queued. It survives a restart of the server."""

    model_config = examples(
        {
            "request_id": _ID,
            "status": "QUEUED",
            "status_url": f"{_URL}/status",
            "response_url": _URL,
            "poll_url": f"{_URL}/status",
        }
    )

    request_id: str = Field(description="Id of the job.")
    status: Literal["QUEUED"] = Field(description="Always `QUEUED`.")
    status_url: str = Field(description="URL of the job's status.")
    response_url: str = Field(description="URL of the job's result.")
    poll_url: str = Field(description="Same as `status_url`.")


class JobMetrics(WireModel):
    """Metrics of a job."""

    inference_time: float | None = Field(
        default=None, description="Processing time in seconds; absent until the job is done."
    )


class JobProgress(WireModel):
    """How far a job is that works on a raster by windows."""

    model_config = examples(_PROGRESS)

    share: float = Field(
        ge=0,
        le=1,
        description="Part of the windows that is finished. Starts again at 0 if a "
        "crash or an error makes the server repeat the job.",
    )
    done: int = Field(ge=0, description="Windows that are finished, including skipped ones.")
    total: int = Field(ge=0, description="Windows of the raster.")
    skipped: int = Field(ge=0, description="Windows without data, which are not segmented.")
    objects: int = Field(
        ge=0,
        description="Objects found so far. The pieces of an object that windows cut are joined as "
        "the work proceeds.",
    )


class JobStatus(WireModel):
    """The status of a job."""

    model_config = examples(
        {"request_id": _ID, "status": "PROCESSING", "metrics": {}},
        {"request_id": _ID, "status": "PROCESSING", "metrics": {}, "progress": _PROGRESS},
        {"request_id": _ID, "status": "COMPLETED", "metrics": {"inference_time": 0.42}},
    )

    request_id: str = Field(description="Id of the job.")
    status: JobState = Field(
        description="`QUEUED` until a worker claims the job, `PROCESSING` while it runs, "
        "`COMPLETED` when the result is available. A `FAILED` job is reported with status code 422."
    )
    metrics: JobMetrics = Field(description="Metrics of the job.")
    progress: JobProgress | None = Field(
        default=None,
        description="How far the job is; absent before its first report, and for requests that are "
        "not worked on by windows.",
    )


class JobImage(WireModel):
    """A file of a job's result."""

    url: str = Field(description="Signed URL; valid without an API key until the result expires.")
    content_type: str = Field(description="Media type.")
    file_name: str = Field(description="File name.")
    file_size: int = Field(ge=0, description="Size in bytes.")


class JobResult(WireModel):
    """A job with its result. Results expire after one hour."""

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

    request_id: str = Field(description="Id of the job.")
    status: JobState = Field(description="Status of the job; see `JobStatus`.")
    error: None = Field(description="Always null; a failed job is reported with status code 422.")
    output: Any = Field(
        description="URL of the result file, or a list of URLs if the request asks for several "
        "files. For requests with a JSON response: that response. Null until the job is done."
    )
    metrics: JobMetrics = Field(description="Metrics of the job.")
    images: list[JobImage] = Field(description="Files of the result.")
    progress: JobProgress | None = Field(default=None, description="As in `JobStatus`.")


class JobDeleted(WireModel):
    """The job was cancelled, or its result deleted. It is unknown from now on."""

    model_config = examples({"request_id": _ID, "status": "PROCESSING"})

    request_id: str = Field(description="Id of the job.")
    status: Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"] = Field(
        description="Status that the job had: `QUEUED` and `PROCESSING` were cancelled."
    )


class JobFailed(WireModel):
    """A job that failed."""

    model_config = examples(
        {"request_id": _ID, "status": "FAILED", "error": "Could not load input image."}
    )

    request_id: str = Field(description="Id of the job.")
    status: Literal["FAILED"] = Field(description="Always `FAILED`.")
    error: str = Field(description="What went wrong, and how to fix it.")
