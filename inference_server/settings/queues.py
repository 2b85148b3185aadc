"""Settings: queues, batches, threads and shutdown."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class QueueSettings(EnvironmentSettings):
    """Queues, batches, threads and shutdown."""

    request_timeout: float = Field(
        300.0, gt=0, description="Timeout of a request in seconds; later it gets 504."
    )
    max_requests: int = Field(
        256,
        ge=1,
        description="Maximum number of requests in progress; beyond it, requests get 429. Probes, "
        "metrics and job status requests do not count.",
    )
    queue_size: int = Field(
        64,
        ge=1,
        description="Maximum number of requests that wait for a model; beyond it, requests get "
        "429.",
    )
    drain_seconds: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="Seconds after SIGTERM during which `/readyz` is 503 and requests are still "
        "served, so that load balancers notice. After that, new requests get 503.",
    )
    shutdown_timeout: float = Field(
        25.0,
        ge=0,
        le=3600,
        description="Seconds that requests and jobs in progress have to finish after the drain; "
        "then requests get 503, and jobs return to the queue.",
    )
    encode_batch: int = Field(
        0,
        ge=0,
        description="Maximum number of images per encoder forward pass; 0 means 1 on a CPU and 8 "
        "on a GPU.",
    )
    decode_batch: int = Field(
        0,
        ge=0,
        description="Maximum number of prompts per decoder forward pass; 0 means 1 on a CPU and "
        "32 on a GPU.",
    )
    max_binary_mb: int = Field(
        512,
        ge=1,
        description="Maximum size in MiB, before compression, of the full-size masks in a `binary` "
        "response or as PNGs in JSON.",
    )
    max_drawn_masks: int = Field(
        1000,
        ge=1,
        description="Maximum number of masks that a request may have drawn in an overlay, or as "
        "single PNGs.",
    )
    max_mask_files_mb: int = Field(
        128,
        ge=1,
        description="Maximum size in MiB of the single mask PNGs of a request.",
    )
    automatic_memory_mb: int = Field(
        256,
        ge=1,
        description="Memory in MiB for the candidate masks of an automatic request; beyond it, "
        "duplicates are removed before all candidates are known, which may change the result.",
    )
    cpu_workers: int = Field(
        0,
        ge=0,
        description="Threads for images and masks; 0 means one per core, and at least two.",
    )
    slow_workers: int = Field(
        0,
        ge=0,
        description="Threads for slow work: overlays, rasters, coordinate transformations and "
        "images of more than `INFERENCE_SLOW_IMAGE_PIXELS`. Each may need half a GB. 0 means a "
        "quarter of `INFERENCE_CPU_WORKERS`, and at least two.",
    )
    slow_image_pixels: int = Field(
        16_000_000,
        ge=1,
        description="Number of pixels to decode above which an image counts as slow work. A JPEG "
        "is decoded at a fraction of its size if that is enough.",
    )
