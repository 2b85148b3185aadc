"""Settings: rasters that are read by windows."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class RasterSettings(EnvironmentSettings):
    """Rasters that are read by windows, so that they may be larger than one image."""

    max_raster_upload_mb: int = Field(
        2048,
        ge=1,
        description="Maximum size in MiB of a form of an API that reads rasters by windows. "
        "INFERENCE_UPLOAD_STORAGE_MB and INFERENCE_UPLOAD_TENANT_STORAGE_MB must be at least as "
        "large.",
    )
    raster_timeout: float = Field(
        3600.0,
        gt=0,
        description="Timeout in seconds of a request with a raster that is read by windows, from "
        "the beginning of its upload; later it gets 504. It takes the place of "
        "INFERENCE_REQUEST_TIMEOUT, and of INFERENCE_BODY_TIMEOUT if the form announces more than "
        "INFERENCE_MAX_UPLOAD_MB.",
    )
    max_raster_pixels: int = Field(
        4_000_000_000,
        ge=1,
        description="Maximum number of pixels of a raster that is read by windows. Memory does not "
        "depend on it, time does.",
    )
    max_raster_side: int = Field(
        1_000_000,
        ge=1,
        le=2**31 - 1,
        description="Maximum width and height of a raster that is read by windows, in pixels.",
    )
    max_raster_block_mb: int = Field(
        64,
        ge=1,
        description="Maximum size in MiB of an unpacked tile or strip of a raster that is read by "
        "windows. GDAL takes about twice as much memory for one.",
    )
