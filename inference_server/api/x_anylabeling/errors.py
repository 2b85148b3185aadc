"""X-AnyLabeling's error responses.

The vendor's server reports most errors with status 200, which the program takes for "no objects".
These have real status codes, and the vendor's body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from inference_server.api.openapi import Answer, common_errors
from inference_server.errors import InferenceServerError
from schemas.x_anylabeling import XAnyLabelingError

_CODES: Mapping[str, str] = MappingProxyType(
    {
        "auth": "UNAUTHORIZED",
        "unknown_model": "MODEL_NOT_FOUND",
        "image": "INVALID_IMAGE",
        "internal": "INFERENCE_ERROR",
    }
)
"""The vendor's codes, by the reason of an error; others have their reason in upper case."""


def wording(error: InferenceServerError) -> dict[str, Any]:
    """Build an error body."""
    code = _CODES.get(error.reason, error.reason.upper())
    return {"success": False, "error": {"code": code, "message": error.message}}


def _errors() -> Mapping[int, Answer]:
    errors = dict(common_errors(XAnyLabelingError, "XAnyLabeling"))
    errors[404] = replace(
        errors[404],
        description="There is no model with this id.",
        component="UnknownModelXAnyLabeling",
    )
    errors[422] = replace(errors[422], model=XAnyLabelingError)
    return errors


ERRORS: Mapping[int, Answer] = MappingProxyType(_errors())
"""Error responses by status code."""
