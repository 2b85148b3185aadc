"""How the tests of the wire types look at mistakes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from schemas.common import Limits, validation_detail


def mistakes(
    model: type[BaseModel], data: Any, limits: Limits | None = None
) -> list[tuple[str, str]]:
    """Validates what must be refused.

    Returns:
        The place (dotted, without `body`) and type of each mistake.
    """
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data, context=limits)
    return [
        (".".join(str(part) for part in item["loc"][1:]), item["type"])
        for item in validation_detail(caught.value)
    ]
