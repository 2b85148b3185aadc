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
    max_raster_requests: int = Field(
        4,
        ge=1,
        description="Maximum number of requests in progress that segment rasters by windows; "
        "beyond it, they get 429. Each may take INFERENCE_TILE_OBJECTS_MB and "
        "INFERENCE_MAX_RASTER_RESPONSE_MB of temporary storage.",
    )
    max_raster_requests_per_key: int = Field(
        3,
        ge=1,
        description="Maximum number of requests of one key in progress that segment rasters by "
        "windows, so that others have room; beyond it, they get 429.",
    )
    max_raster_response_mb: int = Field(
        1024,
        ge=1,
        description="Maximum size in MiB of the response to a request that segments a raster by "
        "windows. It is written to temporary storage, and sent from there.",
    )
