"""samgeo's error messages, which its clients know, and error bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference_server.api.endpoint import message_wording
from inference_server.api.samgeo.models import ids_of, model_of
from inference_server.engines.catalog import Catalog
from inference_server.errors import (
    InferenceServerError,
    InvalidRequestError,
    PromptError,
    RequestError,
)
from schemas.samgeo import BACKENDS, MODEL_VERSIONS, OUTPUT_FORMATS, UploadRequest


def wording(error: InferenceServerError) -> dict[str, Any]:
    """Build an error body: `detail` is a text, or a list of errors in form fields; and `code`."""
    if isinstance(error, InvalidRequestError | PromptError):
        return message_wording(error)
    return {"detail": error.message, "code": error.reason}


def check_form(
    body: UploadRequest, version: str, catalog: Catalog, backend: str = BACKENDS[0]
) -> None:
    """Check the fields whose errors samgeo words itself, in samgeo's order.

    Args:
        body: the form.
        version: the form's model version, or the one that the endpoint uses.
        catalog: the configured models.
        backend: the form's backend; default the first known one.

    Raises:
        RequestError: a field has an unknown value.
        ModelUnavailableError: this server has no model of the version.
    """
    if body.output_format not in OUTPUT_FORMATS:
        raise RequestError(
            f"Invalid output_format {body.output_format[:64]!r}. "
            f"Must be one of: {', '.join(OUTPUT_FORMATS)}"
        )
    if body.max_size is not None and 0 < body.max_size < body.min_size:
        raise RequestError(
            f"min_size ({body.min_size}) is larger than max_size ({body.max_size}), so no object "
            "can match. Omit max_size, or send 0, for no upper limit."
        )
    _check("backend", backend, BACKENDS)
    _check("model_version", version, MODEL_VERSIONS)
    if body.model_id is not None:
        _check("model_id", body.model_id, ids_of(catalog, version), f" for {version}")
    model_of(catalog, version, body.model_id)


def _check(field: str, value: str, known: Sequence[str], suffix: str = "") -> None:
    if value not in known:
        raise RequestError(f"Invalid {field} {value[:64]!r}{suffix}. Must be one of: {list(known)}")
