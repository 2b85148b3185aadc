"""Helpers for tests of validation errors."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from schemas.common import Limits, validation_detail


def mistakes(
    model: type[BaseModel], data: Any, limits: Limits | None = None
) -> list[tuple[str, str]]:
    """Validate data that must be rejected.

    Args:
        model: The model.
        data: The invalid data.
        limits: Limits; the defaults if None.

    Returns:
        Location (dotted, without `body`) and type of each error.
    """
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data, context=limits)
    return [
        (".".join(str(part) for part in item["loc"][1:]), item["type"])
        for item in validation_detail(caught.value)
    ]
