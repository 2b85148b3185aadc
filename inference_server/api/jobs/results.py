"""Status, results and files of jobs, and their deletion."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.api.dependencies import authenticate, state_of
from inference_server.api.jobs.submission import PRIVATE
from inference_server.api.public_url import public_url
from inference_server.api.responses import PiecewiseResponse, image_headers, respond
from inference_server.errors import UnknownJobError
from inference_server.jobs import JSON_OUTPUT, Facts, Status
from inference_server.observability.metrics import timing_header

_JOB_ID = re.compile(r"[0-9a-f]{32}")


async def _job(request: Request) -> Status:
    tenant = authenticate(request).tenant
    job_id = request.path_params["request_id"]
    status = None
    # Other ids are not looked up: PostgreSQL reports a NUL in a text as an error of the database.
    if _JOB_ID.fullmatch(job_id):
        status = await state_of(request).jobs.status(job_id, tenant)
    if status is None:
        raise _unknown(job_id)
    return status


def _unknown(job_id: str) -> UnknownJobError:
    return UnknownJobError(f"Request {job_id[:64]} not found: it is unknown or has expired.")


def _failed(status: Status) -> Response:
    body = {"request_id": status.job_id, "status": "FAILED", "error": status.error}
    return JSONResponse(body, 422, PRIVATE)


def _metrics(status: Status) -> dict[str, float]:
    return {} if status.seconds is None else {"inference_time": status.seconds}


def _progress(status: Status) -> dict[str, Any]:
    """Return the field `progress`, if there is any."""
    told = status.progress
    if told is None:
        return {}
    return {"progress": {"share": told.share, **asdict(told)}}


async def job_status(request: Request) -> Response:
    """Get a job's status."""
    status = await _job(request)
    if status.state == "FAILED":
        return _failed(status)
    body = {"request_id": status.job_id, "status": status.state, "metrics": _metrics(status)}
    return JSONResponse({**body, **_progress(status)}, headers=PRIVATE)


async def delete_job(request: Request) -> Response:
    """Cancel a job, or delete its result."""
    state, tenant = state_of(request), authenticate(request).tenant
    job_id = request.path_params["request_id"]
    deleted = None
    if _JOB_ID.fullmatch(job_id):
        deleted = await state.jobs.delete(job_id, tenant)
    if deleted is None:
        raise _unknown(job_id)
    if deleted.state in ("QUEUED", "PROCESSING"):
        state.metrics.jobs.labels(deleted.kind, "cancelled").inc()
    body = {"request_id": job_id, "status": deleted.state}
    return JSONResponse(body, headers=PRIVATE)


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
        **_progress(status),
    }
    extra = {**PRIVATE, **_fact_headers(status.facts)}
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
