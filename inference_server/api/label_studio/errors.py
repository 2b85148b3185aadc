"""Label Studio's error responses: bodies, and a line in the log for each."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.middleware.access_log import record_of
from inference_server.api.openapi import Answer, common_errors
from inference_server.errors import (
    InferenceServerError,
    InvalidRequestError,
    PromptError,
)
from schemas.common import validation_detail, validation_message
from schemas.label_studio import LabelStudioError

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


def wording(error: InferenceServerError) -> dict[str, Any]:
    """Build an error body, as the vendor's library does, but without a traceback."""
    unclear = isinstance(error, InvalidRequestError | PromptError)
    return {
        "status": 400 if unclear else error.status,
        "detail": error.message,
        "code": error.reason,
        "request": {},
    }


def logged(handler: Handler) -> Handler:
    """Log the error of a handler: Label Studio shows neither status nor body to its users.

    Args:
        handler: handles requests of Label Studio.
    """

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ValidationError as error:
            _log(request, validation_message(validation_detail(error)))
            raise
        except InferenceServerError as error:
            _log(request, error.message)
            raise

    return handle


def _log(request: Request, message: str) -> None:
    path = request.scope["path"]
    logger.warning("%s of Label Studio failed (%s): %s", path, record_of(request).identity, message)


def _errors() -> Mapping[int, Answer]:
    errors = dict(common_errors(LabelStudioError, "LabelStudio"))
    for absent in (404, 422):
        del errors[absent]
    description = (
        "The request or the label configuration is invalid, or the image of an interactive "
        "request cannot be fetched or decoded."
    )
    return {**errors, 400: replace(errors[400], description=description)}


ERRORS: Mapping[int, Answer] = MappingProxyType(_errors())
"""Error responses by status code."""
