"""Jobs: submit a request and poll for its result, as in Segmind's queue."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.api.dependencies import authenticate, read_with, state_of, timings_of
from inference_server.api.openapi import COMMON_ERRORS, Answer, Operation
from inference_server.api.public_url import public_url
from inference_server.api.responses import PiecewiseResponse, image_headers, respond
from inference_server.api.roboflow import routes as roboflow
from inference_server.api.segmind import routes as segmind
from inference_server.api.segmind.errors import ERRORS as SEGMIND_ERRORS
from inference_server.auth import Tenant, Work
from inference_server.errors import PromptError, UnknownImageError, UnknownJobError
from inference_server.jobs import JSON_OUTPUT, Accepted, Facts, RequestKey, Status, Submission
from inference_server.jobs.task import Task
from inference_server.observability.metrics import timing_header
from inference_server.segmentation.types import ImageRef, StoredImage
from schemas.jobs import JobFailed, JobResult, JobStatus, JobSubmitted
from schemas.segmind import SegmindFailure

TASKS: Mapping[str, Task] = MappingProxyType({**segmind.TASKS, **roboflow.TASKS})
"""Tasks that can run as jobs, by the path below `/v2/`."""

_PRIVATE = {"cache-control": "no-store"}
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_REQUESTS = "/v2/requests"


async def submit(slug: str, request: Request) -> Response:
    """Validate a request as its own endpoint does, and queue it as a job."""
    state, task = state_of(request), TASKS[slug]

    def check(data: dict[str, Any]) -> _Checked:
        body = task.request.model_validate(data, context=state.limits)
        task.check(state.segmenter.catalog, body)
        # API keys must not be stored with jobs.
        kept = {name: value for name, value in data.items() if name != "api_key"}
        payload = orjson.dumps(kept)
        key = _request_key(request, slug, payload)
        return _Checked(payload, task.work(body), task.image_id(body), key)

    key, checked = await read_with(request, check)
    image, unknown = await _image(request, key.tenant, checked)
    bill = state.auth.bill(key, checked.work)
    submission = Submission(
        key.tenant.name, slug, checked.payload, bill, image, checked.key, unknown
    )
    accepted = await state.jobs.submit(submission)
    _undo_without_response(request, accepted)
    headers = dict(_PRIVATE)
    if accepted.repeated:
        headers["idempotent-replayed"] = "true"
    if accepted.credits_left is not None:
        headers["x-credits-remaining"] = str(accepted.credits_left)
    url = f"{public_url(request, state.settings)}{_REQUESTS}/{accepted.job_id}"
    return JSONResponse(
        {
            "request_id": accepted.job_id,
            "status": "QUEUED",
            "status_url": f"{url}/status",
            "response_url": url,
            "poll_url": f"{url}/status",
        },
        headers=headers,
    )


@dataclass(frozen=True, slots=True)
class _Checked:
    """A valid request.

    Attributes:
        payload: its body as JSON, without an API key.
        work: what it asks for.
        image_id: id of the image that it names without sending it; None if it sends the image.
        key: its `Idempotency-Key`; None if it has none.
    """

    payload: bytes
    work: Iterable[Work]
    image_id: str | None
    key: RequestKey | None


def _request_key(request: Request, slug: str, payload: bytes) -> RequestKey | None:
    """Return the `Idempotency-Key` of a request.

    Raises:
        PromptError: If the key is empty or too long.
    """
    name = request.headers.get("idempotency-key")
    if name is None:
        return None
    most = state_of(request).settings.max_id_length
    if not 0 < len(name) <= most:
        raise PromptError(
            f"The Idempotency-Key has {len(name)} characters; send 1 to {most}, or raise "
            "INFERENCE_MAX_ID_LENGTH on the server.",
            ("header", "Idempotency-Key"),
        )
    asked = hashlib.sha256(slug.encode() + b"\0" + payload)
    return RequestKey(hashlib.sha256(name.encode()).hexdigest(), asked.hexdigest())


async def _image(
    request: Request, tenant: Tenant, checked: _Checked
) -> tuple[StoredImage | None, UnknownImageError | None]:
    """Load the image that a request names by its id alone: it belongs to the job from now on.

    Returns:
        (the image, why there is none); the second is for a request that may be a repetition, whose
        job has its image already.
    """
    if checked.image_id is None:
        return None, None
    segmenter = state_of(request).segmenter
    image = ImageRef(image_id=checked.image_id)
    try:
        return await segmenter.read(tenant.name, image, timings_of(request)), None
    except UnknownImageError:
        unknown = UnknownImageError(
            "A job keeps the file of its image, and none is cached under this image_id (it was "
            "never sent with this API key, or was evicted). Send the image along with the id."
        )
    if checked.key is None:
        raise unknown
    return None, unknown


def _undo_without_response(request: Request, accepted: Accepted) -> None:
    """Undo the submission if the request ends without its response, such as at its deadline."""

    def ended(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            state_of(request).jobs.undo(accepted)

    held: AsyncExitStack = request.state.held
    held.push(ended)


async def _job(request: Request) -> Status:
    tenant = authenticate(request).tenant
    job_id = request.path_params["request_id"]
    status = None
    # Other ids are not looked up: PostgreSQL reports a NUL in a text as an error of the database.
    if _JOB_ID.fullmatch(job_id):
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
            content = await state.jobs.piece(status.job_id, JSON_OUTPUT, 0, files[0].nbytes)
            output = None if content is None else orjson.Fragment(content)
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
    extra = {**_PRIVATE, **_fact_headers(status.facts)}
    return await respond(request, None, lambda: body, extra=extra)


def _fact_headers(facts: Facts) -> dict[str, str]:
    """Return the headers that the synchronous response would have had."""
    stages = timing_header(facts.stages)
    return image_headers(facts.model, facts.hit, facts.mismatch, stages)


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
    file, left, facts = found
    return await PiecewiseResponse.begin(
        partial(jobs.piece, job_id, name),
        file.nbytes,
        media_type=file.media_type,
        headers={
            "cache-control": f"private, max-age={max(0, int(left))}, immutable",
            "content-disposition": f'inline; filename="{file.name}"',
            "content-security-policy": "default-src 'none'; sandbox",
            **_fact_headers(facts),
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
        f"{_REQUESTS}/{{request_id}}/status",
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
        f"{_REQUESTS}/{{request_id}}",
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
