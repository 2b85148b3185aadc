"""A backend's parameters: `extra_params`, overridden by attributes of control tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from inference_server.api.label_studio.config import Control
from inference_server.errors import PromptError
from schemas.common import Limits, validation_detail, validation_message
from schemas.label_studio import LabelStudioParameters

_PREFIX = "model_"


def parameters_of(
    extra: Mapping[str, Any], controls: tuple[Control | None, ...], limits: Limits
) -> LabelStudioParameters:
    """Combine the parameters of a backend.

    Args:
        extra: the backend's `extra_params`; unknown names are ignored.
        controls: control tags whose attributes `model_…` override them, the weaker ones first.
        limits: limits of texts.

    Raises:
        PromptError: a parameter has an invalid value.
    """
    told = dict(extra)
    for control in controls:
        attributes = control.attributes if control is not None else {}
        for name, value in attributes.items():
            if name.startswith(_PREFIX):
                told[name.removeprefix(_PREFIX)] = value
    try:
        return LabelStudioParameters.model_validate(told, context=limits)
    except ValidationError as error:
        message = validation_message(validation_detail(error))
        raise PromptError(
            f"A parameter of the backend is invalid: {message}. Correct the extra parameters of "
            f"the ML backend, or the attribute {_PREFIX}… of a control tag."
        ) from None
