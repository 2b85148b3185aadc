"""Responses of the endpoints about the server itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.common import WireModel, examples


class ServerInfo(WireModel):
    """Name, version and entry points of this server."""

    model_config = examples(
        {
            "name": "inference-server",
            "version": "0.1.0",
            "links": {"openapi": "/openapi.json", "models": "/models"},
        }
    )

    name: str = Field(description="Name of the product.")
    version: str = Field(description="Version of the server.")
    links: dict[str, str] = Field(description="Paths on this server, by name.")


class Health(WireModel):
    """Whether the server is alive, or ready for requests."""

    model_config = examples(
        {"status": "ok"},
        {"status": "loading", "message": "sam2/hiera_large is being loaded"},
        {
            "status": "degraded",
            "message": "Background tasks do not work: keys has failed for 12 s. The log has the "
            "reason.",
            "version": "0.2.0",
        },
    )

    status: Literal["ok", "degraded", "loading", "failed", "stopping"] = Field(
        description="`ok`; `degraded` if the server is ready, but a background task does not work; "
        "or why the server is not ready: models are `loading` or `failed` to load, or the server "
        "is `stopping`."
    )
    message: str | None = Field(default=None, description="Human-readable details.")
    version: str | None = Field(default=None, description="Version of the server.")


class ModelsCleared(WireModel):
    """The models were unloaded and the caches cleared."""

    model_config = examples({"status": "cleared"})

    status: Literal["cleared"] = Field(description="Always `cleared`.")


class Checkpoint(WireModel):
    """Weights that this server uses."""

    model_config = examples(
        {
            "family": "sam2",
            "name": "hiera_large",
            "source": "demo",
            "device": "cpu",
            "dtype": "bfloat16",
            "loaded": True,
            "cache_dtype": "bfloat16",
            "threads": 8,
            "encode_batch": 1,
            "decode_batch": 1,
            "nbytes": 897540096,
            "last_used": 1764417600.0,
            "side": 1024,
        }
    )

    family: Literal["sam1", "sam2", "sam3"] = Field(description="Model family.")
    name: str = Field(description="Name of the checkpoint in requests.")
    source: str = Field(description="Source of the weights: `demo`, a path, or a Hugging Face id.")
    device: str = Field(description="Device of the model, such as `cpu` or `cuda:0`.")
    dtype: str = Field(description="Data type of the computation.")
    loaded: bool = Field(description="Whether the model is in memory.")
    cache_dtype: str | None = Field(
        default=None, description="Data type of cached image embeddings."
    )
    threads: int | None = Field(
        default=None, description="Number of CPU threads the model may use."
    )
    encode_batch: int | None = Field(
        default=None, description="Maximum number of images per encoder batch."
    )
    decode_batch: int | None = Field(
        default=None, description="Maximum number of prompts per decoder batch."
    )
    nbytes: int | None = Field(
        default=None, description="Memory of the weights in bytes; 0 if they are not in memory."
    )
    last_used: float | None = Field(
        default=None,
        description="Unix time of the last request; null if it is not in memory, or if the API key "
        "does not have the scope `admin`.",
    )
    side: int | None = Field(
        default=None,
        description="Side of the model's square input in pixels; null if it is not in memory.",
    )


class ModelsResponse(WireModel):
    """The models that this server offers."""

    model_config = examples(
        {
            "models": {"sam2": ["sam2-hiera-large"], "sam3": ["facebook/sam3"]},
            "loaded": [["sam3", "facebook/sam3"]],
            "checkpoints": [
                {
                    "family": "sam3",
                    "name": "sam3/sam3_final",
                    "source": "demo",
                    "device": "cpu",
                    "dtype": "float32",
                    "loaded": True,
                }
            ],
        }
    )

    models: dict[str, list[str]] = Field(description="Model ids, by version.")
    loaded: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        description="`[version, id]` of each model in memory."
    )
    checkpoints: list[Checkpoint] = Field(description="Weights of the models.")
