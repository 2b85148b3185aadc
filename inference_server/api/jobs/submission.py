"""Submission of jobs: a request is validated as its own endpoint does it, and stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.api.dependencies import read_with, state_of, timings_of
from inference_server.api.public_url import public_url
from inference_server.api.roboflow import tasks as roboflow
from inference_server.api.roboflow.rasters import name_of
from inference_server.api.segmind import routes as segmind
from inference_server.auth import Tenant, Work
from inference_server.errors import PromptError, UnknownImageError
from inference_server.images.raster_directory import check_name
from inference_server.jobs import Accepted, RequestKey, Submission
from inference_server.jobs.task import Task
from inference_server.segmentation.types import ImageRef, StoredImage

TASKS: Mapping[str, Task] = MappingProxyType({**segmind.TASKS, **roboflow.TASKS})
"""Tasks that can run as jobs, by the path below `/v2/`."""

PRIVATE: Mapping[str, str] = MappingProxyType({"cache-control": "no-store"})
"""Headers of all responses about jobs."""

REQUESTS = "/v2/requests"
"""Path of the jobs."""


async def submit(slug: str, request: Request) -> Response:
    """Validate a request as its own endpoint does, and queue it as a job."""
    state, task = state_of(request), TASKS[slug]

    def check(data: dict[str, Any]) -> _Checked:
        body = task.request.model_validate(data, context=state.limits)
        task.check(state.segmenter.catalog, body)
        if (name := name_of(body)) is not None:
            check_name(state.settings.raster_directory, name)
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
    headers = dict(PRIVATE)
    if accepted.repeated:
        headers["idempotent-replayed"] = "true"
    if accepted.credits_left is not None:
        headers["x-credits-remaining"] = str(accepted.credits_left)
    url = f"{public_url(request, state.settings)}{REQUESTS}/{accepted.job_id}"
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
