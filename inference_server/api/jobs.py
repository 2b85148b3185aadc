"""Jobs: submit a request and poll for its result, as in Segmind's queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.api.dependencies import authenticate, read_with, state_of
from inference_server.api.openapi import COMMON_ERRORS, Answer, Operation
from inference_server.api.public_url import public_url
from inference_server.api.responses import PiecewiseResponse, respond
from inference_server.api.roboflow import routes as roboflow
from inference_server.api.segmind import routes as segmind
from inference_server.api.segmind.errors import ERRORS as SEGMIND_ERRORS
from inference_server.auth import Work
from inference_server.errors import UnknownJobError
from inference_server.jobs import JSON_OUTPUT, Status
from inference_server.jobs.task import Task
from schemas.jobs import JobFailed, JobResult, JobStatus, JobSubmitted
from schemas.segmind import SegmindFailure

TASKS: Mapping[str, Task] = MappingProxyType({**segmind.TASKS, **roboflow.TASKS})
"""Tasks that can run as jobs, by the path below `/v2/`."""

_PRIVATE = {"cache-control": "no-store"}
_REQUESTS = "/v2/requests"


async def submit(slug: str, request: Request) -> Response:
    """Validate a request as its own endpoint does, and queue it as a job."""
    state, task = state_of(request), TASKS[slug]

    def check(data: dict[str, Any]) -> tuple[bytes, Iterable[Work]]:
        body = task.request.model_validate(data, context=state.limits)
        # API keys must not be stored with jobs.
        kept = {name: value for name, value in data.items() if name != "api_key"}
        return orjson.dumps(kept), task.work(body)

    key, (payload, work) = await read_with(request, check)
    bill = state.gate.bill(key, work)
    job_id = await state.jobs.submit(key.tenant, slug, payload, bill)
    url = f"{public_url(request, state.settings)}{_REQUESTS}/{job_id}"
    return JSONResponse(
        {
            "request_id": job_id,
            "status": "QUEUED",
            "status_url": f"{url}/status",
            "response_url": url,
            "poll_url": f"{url}/status",
        },
        headers=_PRIVATE,
    )


async def _job(request: Request) -> Status:
    tenant = authenticate(request).tenant
    job_id = request.path_params["request_id"]
    status = await state_of(request).jobs.status(job_id, tenant)
    if status is None:
        raise UnknownJobError(f"Request {job_id[:64]} not found: it is unknown or has expired.")
    return status


def _failed(status: Status) -> Response:
    body = {"request_id": status.job_id, "status": "FAILED", "error": status.error}
    return JSONResponse(body, 422, _PRIVATE)


def _metrics(status: Status) -> dict[str, float]:
    return {} if status.seconds is None else {"inference_time": status.seconds}


async def job_status(request: Request) -> Response:
    """Get a job's status."""
    status = await _job(request)
    if status.state == "FAILED":
        return _failed(status)
    body = {"request_id": status.job_id, "status": status.state, "metrics": _metrics(status)}
    return JSONResponse(body, headers=_PRIVATE)


async def job_result(request: Request) -> Response:
    """Get a job's status and, once it is completed, its result."""
    status = await _job(request)
    if status.state == "FAILED":
        return _failed(status)
    state = state_of(request)
    output: Any = None
    images: list[dict[str, Any]] = []
    if status.state == "COMPLETED":
        assert status.expires is not None  # noqa: S101 - completed jobs have an expiry
        files = await state.jobs.files(status.job_id)
        if [file.name for file in files] == [JSON_OUTPUT]:
            stored = await state.jobs.file(status.job_id, JSON_OUTPUT)
            output = orjson.Fragment(stored[0].content) if stored else None
        else:
            base = public_url(request, state.settings)
            links = state.jobs.links
            images = [
                {
                    "url": base + links.path(status.job_id, file.name, status.expires),
                    "content_type": file.media_type,
                    "file_name": file.name,
                    "file_size": file.nbytes,
                }
                for file in files
            ]
            urls = [image["url"] for image in images]
            output = urls[0] if len(urls) == 1 else urls
    body = {
        "request_id": status.job_id,
        "status": status.state,
        "error": None,
        "output": output,
        "metrics": _metrics(status),
        "images": images,
    }
    model = {} if status.model is None else {"x-model": quote(status.model, safe="/, ")}
    return await respond(request, None, lambda: body, extra={**_PRIVATE, **model})


async def job_file(request: Request) -> Response:
    """Get a file of a result by its signed link, without an API key."""
    job_id, name = request.path_params["request_id"], request.path_params["name"]
    expires = request.query_params.get("expires", "")
    signature = request.query_params.get("signature", "")
    jobs = state_of(request).jobs
    found = None
    if jobs.links.is_signed(job_id, name, expires, signature):
        found = await jobs.find_file(job_id, name)
    if found is None:
        raise UnknownJobError("File not found: the link is incomplete or expired.")
    file, left = found
    return await PiecewiseResponse.begin(
        partial(jobs.piece, job_id, name),
        file.nbytes,
        media_type=file.media_type,
        headers={
            "cache-control": f"private, max-age={max(0, int(left))}, immutable",
            "content-disposition": f'inline; filename="{file.name}"',
            "content-security-policy": "default-src 'none'; sandbox",
            "x-content-type-options": "nosniff",
        },
    )


_ID: Mapping[str, Any] = MappingProxyType(
    {
        "name": "request_id",
        "in": "path",
        "required": True,
        "description": "The `request_id` that the submission returned.",
        "schema": {"type": "string"},
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


_ACCEPTED = Answer("The job was accepted.", JobSubmitted, headers=("x-request-id",))
_FAILED = Answer("The job failed.", JobFailed, headers=("x-request-id",), component="JobFailed")
_UNKNOWN = Answer(
    "The job is unknown or expired, or belongs to another key.",
    SegmindFailure,
    headers=("x-request-id",),
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
        "jobs survive a restart of the server.",
        ("Jobs",),
        partial(submit, slug),
        {200: _ACCEPTED, **errors},
        request=TASKS[slug].request,
    )


_SEGMIND_ERRORS = {status: SEGMIND_ERRORS[status] for status in (400, 401, 403, 406, 429, 500, 502)}
_ROBOFLOW_ERRORS = {s: COMMON_ERRORS[s] for s in (401, 402, 403, 408, 413, 422, 429, 500, 503)}

OPERATIONS: tuple[Operation, ...] = (
    _submit("sam3-image", "submitSam3Image", _SEGMIND_ERRORS, "/v1/sam3-image"),
    _submit("sam-v2-image", "submitSamV2Image", _SEGMIND_ERRORS, "/v1/sam-v2-image"),
    Operation(
        "get",
        f"{_REQUESTS}/{{request_id}}/status",
        "jobStatus",
        "Get a job's status",
        "Poll about once per second until the status is `COMPLETED` or `FAILED`.",
        ("Jobs",),
        job_status,
        {
            200: Answer("The status.", JobStatus, headers=("x-request-id",)),
            404: _UNKNOWN,
            422: _FAILED,
            **_ERRORS,
        },
        parameters=(_ID,),
    ),
    Operation(
        "get",
        f"{_REQUESTS}/{{request_id}}",
        "jobResult",
        "Get a job's result",
        "`output` is null until the job is completed. By default, results expire after one hour.",
        ("Jobs",),
        job_result,
        {
            200: Answer(
                "The status, and the result once the job is completed.",
                JobResult,
                headers=("x-request-id",),
            ),
            404: _UNKNOWN,
            422: _FAILED,
            **_ERRORS,
        },
        parameters=(_ID,),
    ),
    Operation(
        "get",
        f"{_REQUESTS}/{{request_id}}/files/{{name}}",
        "jobFile",
        "Get a file of a result",
        "The result contains the signed URL, which needs no API key.",
        ("Jobs",),
        job_file,
        {
            200: Answer(
                "The file.",
                raw={"image/png": "binary", "application/octet-stream": "binary"},
                headers=("x-request-id",),
            ),
            404: Answer(
                "The link is incomplete or expired.",
                SegmindFailure,
                headers=("x-request-id",),
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
