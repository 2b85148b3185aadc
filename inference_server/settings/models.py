"""Settings: which models run, where, and how precisely."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from inference_server.settings import types
from inference_server.settings.types import EnvironmentSettings


class ModelSettings(EnvironmentSettings):
    """Which models run, where, and how precisely."""

    sam3_weights: str = Field(
        "demo",
        description="SAM 3 weights: `demo`, a `transformers` directory, or a Hugging Face id such "
        "as `facebook/sam3`.",
    )
    sam2_weights: str = Field(
        "demo",
        description="SAM 2 weights: `demo`, a checkpoint file or a directory of them "
        "(`sam2.1_hiera_large.pt`, …), `facebook` for Meta's Hugging Face repositories, or one "
        "Hugging Face id such as `facebook/sam2.1-hiera-large`.",
    )
    preload: types.CommaSeparated = Field(
        (),
        description="Comma-separated models to load before the server is ready, each as "
        "`version:model_id`, such as `sam2:sam2-hiera-large,sam3:facebook/sam3`. Empty: SAM 3 and "
        "the largest SAM 2.",
    )
    device: types.Device = Field(
        "auto",
        description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` picks the fastest.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the models: `float32`, `bfloat16`, or `auto` for bfloat16 where "
        "the device computes it fast.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads for the models; 0 means one per core."
    )
    embedding_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of cached image embeddings: `float32`, `bfloat16`, `float16`, or "
        "`auto` for the precision of the models. With 16 bits, twice as many fit.",
    )
