"""Settings: rasters that are segmented window by window."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class TilingSettings(EnvironmentSettings):
    """Rasters that are segmented window by window."""

    max_raster_windows: int = Field(
        10_000, ge=1, description="Maximum number of windows of a request."
    )
    min_tile_size: int = Field(
        64, ge=16, description="Minimum `tile_size` of a request in pixels of the raster."
    )
    max_tile_size: int = Field(
        4096,
        ge=16,
        description="Maximum `tile_size` of a request in pixels of the raster. Each window in "
        "flight takes up to twelve bytes per pixel.",
    )
    tile_windows_in_flight: int = Field(
        2,
        ge=1,
        le=64,
        description="Windows of one request that are read, encoded and searched at the same time. "
        "In a cluster, raise it to the number of replicas.",
    )
    tile_attempts: int = Field(
        20,
        ge=1,
        description="How often a window is tried while the queues are full, before the request "
        "fails.",
    )
    tile_objects_mb: int = Field(
        2048,
        ge=1,
        description="Maximum size in MiB of the temporary file that holds the objects found in a "
        "raster.",
    )
    tile_memory_mb: int = Field(
        256,
        ge=1,
        description="Maximum size in MiB of the masks of one request that are in memory because "
        "windows still to come may continue them.",
    )
    max_json_objects: int = Field(
        10_000,
        ge=1,
        description="Maximum number of objects of a raster that are returned as one JSON body. "
        "Files of jobs and `inference-server segment` have no such limit.",
    )
    max_json_objects_mb: int = Field(
        16,
        ge=1,
        description="Maximum size in MiB of the objects of a raster that are returned as one JSON "
        "body, as runs of pixels; the body takes a few times as much.",
    )
    tile_cache_percent: int = Field(
        10,
        ge=0,
        le=100,
        description="Share of the embedding cache that windows of rasters may take, all rasters "
        "together. They displace one another before they displace other images. 0 caches none.",
    )
