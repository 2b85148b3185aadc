"""The Space's error responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from inference_server.api.openapi import Answer, common_errors
from inference_server.errors import InferenceServerError
from schemas.huggingface import SpaceError


def wording(error: InferenceServerError) -> dict[str, Any]:
    """Build an error body: an empty result with the message and its code."""
    return {
        "success": False,
        "error": error.message,
        "code": error.reason,
        "masks": [],
        "scores": [],
        "num_objects": 0,
    }


def _errors() -> Mapping[int, Answer]:
    errors = dict(common_errors(SpaceError, "Space"))
    for absent in (404, 422):
        del errors[absent]
    description = "The request is invalid, or the image cannot be fetched or decoded."
    return {**errors, 400: replace(errors[400], description=description)}


ERRORS: Mapping[int, Answer] = MappingProxyType(_errors())
"""Error responses by status code."""
