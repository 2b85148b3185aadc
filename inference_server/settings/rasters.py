"""Settings: rasters that are read by windows."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class RasterSettings(EnvironmentSettings):
    """Rasters that are read by windows, so that they may be larger than one image."""

    max_raster_upload_mb: int = Field(
        2048,
        ge=1,
        description="Maximum size in MiB of a form of an API that reads rasters by windows, and of "
        "a raster that is fetched by URL for that. "
        "INFERENCE_UPLOAD_STORAGE_MB and INFERENCE_UPLOAD_TENANT_STORAGE_MB must be at least as "
        "large.",
    )
    raster_fetch_storage_mb: int = Field(
        4096,
        ge=1,
        description="Maximum size in MiB of all rasters in progress together that were fetched by "
        "URL; beyond it, requests get 429. They are on disk, in the directory for temporary files.",
    )
    raster_fetch_tenant_storage_mb: int = Field(
        2048,
        ge=1,
        description="Maximum size in MiB of one tenant's rasters in progress together that were "
        "fetched by URL; beyond it, its requests get 429.",
    )
    raster_fetch_timeout: float = Field(
        1200.0,
        gt=0,
        description="Timeout in seconds for fetching a raster by URL that may be read by windows. "
        "Its maximum size is INFERENCE_MAX_RASTER_UPLOAD_MB.",
    )
    raster_directory: str = Field(
        "",
        description="Directory whose rasters jobs may name by their paths in it. Every key may "
        "read them. Links in it are not followed. Empty: none.",
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
