"""Every setting, once: its name, default and meaning.

A setting is read from the environment as `INFERENCE_<NAME>`; `README.md` holds the same table, and
a test keeps the two equal.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MiB = 1024 * 1024


class Settings(BaseSettings):
    """The server's settings."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9001, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log message to print."
    )

    auth: Literal["on", "off"] = Field(
        "on", description="`off` serves one anonymous tenant without any key."
    )
    api_keys: Annotated[str, NoDecode] = Field(
        "",
        repr=False,
        description="Comma-separated keys that may call the server. Empty: `serve` makes one for "
        "the run and prints it.",
    )
    cors_origins: str = Field(
        "*", description="Comma-separated origins that browsers may call from; `*` is any."
    )

    sam3_weights: str = Field(
        "demo",
        description="SAM 3 weights: `demo`, a `transformers` directory, or a Hugging Face id such "
        "as `facebook/sam3`.",
    )
    sam2_weights: str = Field(
        "demo",
        description="SAM 2 weights: `demo`, a file or directory of published files "
        "(`sam2.1_hiera_large.pt`, …), `facebook` for the published repositories, or one "
        "Hugging Face id such as `facebook/sam2.1-hiera-large`.",
    )
    device: str = Field(
        "auto", description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` takes the fastest."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the models; `auto` is bfloat16 where the device is fast at it.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads for one model operation; 0 is one a core."
    )

    embedding_cache_mb: int = Field(
        0,
        ge=0,
        description="Room for image embeddings in MiB; 0 is 2048 on a CPU and 8192 on a GPU.",
    )
    image_cache_mb: int = Field(
        256, ge=0, description="Room in MiB for the encoded bytes of images that have an id."
    )
    logits_cache_mb: int = Field(
        64, ge=0, description="Room in MiB for low-resolution logits kept for later clicks."
    )
    text_cache_entries: int = Field(
        1024, ge=0, description="How many concepts keep their text embedding."
    )

    max_body_mb: int = Field(64, ge=1, description="Largest request body in MiB.")
    max_image_mb: int = Field(32, ge=1, description="Largest encoded image in MiB.")
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Most pixels an image may have, read from its header."
    )
    max_prompts: int = Field(16, ge=1, description="Most prompts in a concept request.")
    max_visual_prompts: int = Field(256, ge=1, description="Most prompts in a visual request.")
    max_points: int = Field(1024, ge=1, description="Most points in one prompt.")
    max_boxes: int = Field(64, ge=1, description="Most exemplar boxes in one prompt.")
    max_text_length: int = Field(256, ge=1, description="Longest text of a prompt in characters.")
    max_id_length: int = Field(256, ge=1, description="Longest `image_id` in characters.")

    fetch_timeout: float = Field(
        10.0, gt=0, description="Seconds that fetching an image by URL may take in all."
    )
    fetch_redirects: int = Field(3, ge=0, le=10, description="Most redirects when fetching.")
    fetch_networks: str = Field(
        "",
        description="Comma-separated networks (CIDR) that images may be fetched from although they "
        "are private or loopback; public addresses are always allowed.",
    )
    request_timeout: float = Field(
        300.0, gt=0, description="Seconds after which a request is answered with 504."
    )
    queue_size: int = Field(
        64, ge=1, description="Requests that may wait for a model; more are answered with 429."
    )
    encode_batch: int = Field(4, ge=1, description="Most images encoded in one forward.")
    decode_batch: int = Field(16, ge=1, description="Most prompts decoded in one forward.")
    max_binary_mb: int = Field(
        512,
        ge=1,
        description="Most MiB of full-size masks in one `binary` answer, before compression.",
    )
    cpu_workers: int = Field(
        0, ge=0, description="Threads for images and masks; 0 is one a core, at least two."
    )
