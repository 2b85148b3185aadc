"""Settings: sizes of the caches."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class CacheSettings(EnvironmentSettings):
    """Sizes of the caches."""

    embedding_cache_mb: int = Field(
        0,
        ge=0,
        description="Size of the image embedding cache in MiB; 0 means 2048 on a CPU and 8192 on a "
        "GPU.",
    )
    host_cache_mb: int = Field(
        0,
        ge=0,
        description="Size in MiB of the host memory cache for embeddings evicted from a GPU; 0 "
        "means a quarter of the memory. Not used without a GPU.",
    )
    image_cache_mb: int = Field(
        256,
        ge=0,
        description="Size in MiB of the cache for encoded images that have an `image_id`.",
    )
    logits_cache_mb: int = Field(
        64, ge=0, description="Size in MiB of the cache for low-resolution logits of earlier masks."
    )
    logits_per_image: int = Field(
        64,
        ge=1,
        description="Maximum number of masks per image whose low-resolution logits are cached; the "
        "oldest are removed first.",
    )
    text_cache_entries: int = Field(
        1024,
        ge=0,
        description="Maximum number of cached text embeddings, one per tenant and concept.",
    )
