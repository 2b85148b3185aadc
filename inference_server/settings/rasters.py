"""Settings: rasters that are read by windows."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class RasterSettings(EnvironmentSettings):
    """Rasters that are read by windows, so that they may be larger than one image."""

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
