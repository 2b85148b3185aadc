"""Settings: samgeo's API."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from inference_server.settings.types import EnvironmentSettings


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, which compare as versions do.

    Args:
        version: numbers separated by dots, such as `1.3.3`.

    Raises:
        ValueError: it has another form.
    """
    return tuple(int(part) for part in version.split("."))


def _version(value: str) -> str:
    parts = value.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise PydanticCustomError("version", "Input should be a version such as 1.3.3")
    return value


class SamgeoSettings(EnvironmentSettings):
    """samgeo's API."""

    samgeo_version: Annotated[str, AfterValidator(_version)] = Field(
        "1.3.2",
        description="Version of samgeo whose server the defaults of its API follow: from 1.3.3 on, "
        "`/segment/automatic` uses `sam3` unless a request names a `model_version`; before, "
        "`sam2`.",
    )
