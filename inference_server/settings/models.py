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
        description="SAM 3 weights: `demo`, a `transformers` directory (`sam3`, "
        "`sam3_video` or `sam3_lite_text`), Meta's `sam3.pt` with a `tokenizer.json` beside it, or "
        "a Hugging Face id such as `facebook/sam3`.",
    )
    sam3_models: types.NamedModels = Field(
        {},
        description="More SAM 3 models, as a JSON object of names to directories or Hugging Face "
        'ids, such as `{"crops/3": "/models/crops"}`. Requests select one by its name as '
        "`model_id`.",
    )
    sam2_weights: str = Field(
        "demo",
        description="SAM 2 weights: `demo`, `none`, a checkpoint file or a directory of them "
        "(`sam2.1_hiera_large.pt`, …), `facebook` for Meta's Hugging Face repositories, or one "
        "Hugging Face id such as `facebook/sam2.1-hiera-large`.",
    )
    sam1_weights: str = Field(
        "demo",
        description="SAM 1 weights: `demo`, `none`, a `transformers` directory, a checkpoint file "
        "or a directory of them (`sam_vit_h_4b8939.pth`, …), `facebook` for Meta's Hugging Face "
        "repositories, or one Hugging Face id such as `facebook/sam-vit-huge`. samgeo's requests "
        "use it with `model_version=sam`.",
    )
    sam1_models: types.NamedModels = Field(
        {},
        description="More SAM 1 models, as a JSON object of names to checkpoint files, directories "
        "or Hugging Face ids. samgeo's requests select one by its name as `model_id`.",
    )
    sam2_models: types.NamedModels = Field(
        {},
        description="More SAM 2 models, as a JSON object of names to checkpoint files with "
        "published names, directories, or ids of published SAM 2 repositories. samgeo's requests "
        "select one by its name as `model_id`.",
    )
    visual_model: Literal["auto", "sam3", "sam2"] = Field(
        "auto",
        description="Which model answers points and boxes when a request names none: `sam3`, its "
        "visual head, on the same encoding as words; `sam2`, the largest; or `auto`, SAM 3 if the "
        "checkpoint has the head.",
    )
    model_memory_mb: int = Field(
        0,
        ge=0,
        description="Maximum MiB of weights in memory; to load another model, the least recently "
        "used one that no request uses is unloaded. 0: no maximum.",
    )
    preload: types.CommaSeparated = Field(
        (),
        description="Comma-separated models to load before the server is ready, each as "
        "`version:model_id`, such as `sam2:sam2-hiera-large,sam3:facebook/sam3`. Empty: those "
        "that answer requests which name no model.",
    )
    device: types.Device = Field(
        "auto",
        description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` picks the fastest.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the models: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU "
        "that supports it, and on a CPU where a short measurement at startup finds it at least 1.2 "
        "times as fast.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads for the models; 0 means one per core."
    )
    embedding_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of cached image embeddings: `float32`, `bfloat16`, `float16`, or "
        "`auto` for the precision of the models. With 16 bits, twice as many fit.",
    )
