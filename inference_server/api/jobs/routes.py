"""Jobs: submit a request and poll for its result."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from inference_server.api.jobs.results import delete_job, job_file, job_result, job_status
from inference_server.api.jobs.submission import REQUESTS, TASKS, submit
from inference_server.api.openapi import COMMON_ERRORS, Answer, Operation
from inference_server.api.segmind.errors import ERRORS as SEGMIND_ERRORS
from schemas.jobs import JobDeleted, JobFailed, JobResult, JobStatus, JobSubmitted
from schemas.segmind import SegmindFailure

_ID: Mapping[str, Any] = MappingProxyType(
    {
        "name": "request_id",
        "in": "path",
        "required": True,
        "description": "The `request_id` that the submission returned.",
        "schema": {"type": "string"},
    }
)


_IDEMPOTENCY_KEY: Mapping[str, Any] = MappingProxyType(
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "A name for this submission, chosen by the client, at most 256 characters "
        "by default (`INFERENCE_MAX_ID_LENGTH`). Repeat a submission under the same key if you got "
        "no response: it returns the same job and is charged once. A key belongs to an API key or "
        "its tenant, and is free again when its job expires.",
        "schema": {"type": "string", "minLength": 1},
    }
)


def _text(name: str, where: str, description: str) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            "name": name,
            "in": where,
            "required": True,
            "description": description,
            "schema": {"type": "string"},
        }
    )


_ACCEPTED = Answer(
    "The job was accepted.",
    JobSubmitted,
    headers=("idempotent-replayed", "x-credits-remaining"),
)
_FACTS = ("x-model", "x-embedding-cache", "x-image-mismatch", "server-timing")
_FAILED = Answer("The job failed.", JobFailed, component="JobFailed")
_UNKNOWN = Answer(
    "The job is unknown or expired, or belongs to another key.",
    SegmindFailure,
    component="UnknownJob",
)
_ERRORS = {status: SEGMIND_ERRORS[status] for status in (401, 403, 500, 502)}


def _submit(slug: str, operation_id: str, errors: Mapping[int, Answer], instead: str) -> Operation:
    return Operation(
        "post",
        f"/v2/{slug}",
        operation_id,
        f"Submit a job: {slug}",
        f"Accepts the body of `{instead}` and responds immediately; poll for the result. Accepted "
        "jobs survive a restart of the server. A submission that is not answered, such as at its "
        "deadline, creates no job and costs nothing.",
        ("Jobs",),
        partial(submit, slug),
        {200: _ACCEPTED, **errors},
        request=TASKS[slug].request,
        parameters=(_IDEMPOTENCY_KEY,),
    )


_SEGMIND_ERRORS = {s: SEGMIND_ERRORS[s] for s in (400, 401, 403, 406, 415, 429, 500, 502, 504)}
_ROBOFLOW_ERRORS = {
    s: COMMON_ERRORS[s] for s in (400, 401, 402, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
}

OPERATIONS: tuple[Operation, ...] = (
    _submit("sam3-image", "submitSam3Image", _SEGMIND_ERRORS, "/v1/sam3-image"),
    _submit("sam-v2-image", "submitSamV2Image", _SEGMIND_ERRORS, "/v1/sam-v2-image"),
    Operation(
        "get",
        f"{REQUESTS}/{{request_id}}/status",
        "jobStatus",
        "Get a job's status",
        "Poll about once per second until the status is `COMPLETED` or `FAILED`.",
        ("Jobs",),
        job_status,
        {
            200: Answer("The status.", JobStatus),
            404: _UNKNOWN,
            422: _FAILED,
            **_ERRORS,
        },
        parameters=(_ID,),
    ),
    Operation(
        "get",
        f"{REQUESTS}/{{request_id}}",
        "jobResult",
        "Get a job's result",
        "`output` is null until the job is completed; then the headers are those of the "
        "synchronous response, such as `x-image-mismatch`. By default, results expire after one "
        "hour.",
        ("Jobs",),
        job_result,
        {
            200: Answer(
                "The status, and the result once the job is completed.",
                JobResult,
                headers=_FACTS,
            ),
            404: _UNKNOWN,
            422: _FAILED,
            **_ERRORS,
        },
        parameters=(_ID,),
    ),
    Operation(
        "delete",
        f"{REQUESTS}/{{request_id}}",
        "deleteJob",
        "Cancel a job, or delete its result",
        "A waiting or running job is stopped: its worker drops it at once, or within a second if "
        "another server runs it. A result is deleted, and its links become invalid. Credits are "
        "refunded if no worker has begun the job.",
        ("Jobs",),
        delete_job,
        {200: Answer("The job is gone.", JobDeleted), 404: _UNKNOWN, **_ERRORS},
        parameters=(_ID,),
    ),
    Operation(
        "get",
        f"{REQUESTS}/{{request_id}}/files/{{name}}",
        "jobFile",
        "Get a file of a result",
        "The result contains the signed URL, which needs no API key.",
        ("Jobs",),
        job_file,
        {
            200: Answer(
                "The file.",
                raw={"image/png": "binary", "application/octet-stream": "binary"},
                headers=_FACTS,
            ),
            404: Answer(
                "The link is incomplete or expired.",
                SegmindFailure,
                component="UnknownFile",
            ),
            500: SEGMIND_ERRORS[500],
            502: SEGMIND_ERRORS[502],
        },
        parameters=(
            _ID,
            _text("name", "path", "Name of the file."),
            _text("expires", "query", "Expiry of the link, in seconds since 1970-01-01 UTC."),
            _text("signature", "query", "Signature of the link."),
        ),
        secured=False,
    ),
)
"""Segmind's queue: submission of its own tasks, and status, results and files of all jobs."""

ROBOFLOW_OPERATIONS: tuple[Operation, ...] = (
    _submit(
        "sam3/concept_segment", "submitConceptSegment", _ROBOFLOW_ERRORS, "/sam3/concept_segment"
    ),
    _submit("sam3/visual_segment", "submitVisualSegment", _ROBOFLOW_ERRORS, "/sam3/visual_segment"),
)
"""Submission of Roboflow's tasks, with the error bodies of their own endpoints."""
