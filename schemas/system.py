"""The wire types of the endpoints about the server itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.common import WireModel, examples


class ServerInfo(WireModel):
    """What this server is, and where to go next."""

    model_config = examples(
        {
            "name": "inference-server",
            "version": "0.1.0",
            "links": {"openapi": "/openapi.json", "models": "/models"},
        }
    )

    name: str = Field(description="The name of the product.")
    version: str = Field(description="Its version.")
    links: dict[str, str] = Field(description="Paths on this server, by what they are.")


class Health(WireModel):
    """Whether the server runs, or may be sent work."""

    model_config = examples(
        {"status": "ok"},
        {"status": "loading", "message": "sam2/hiera_large is being loaded"},
    )

    status: Literal["ok", "loading", "failed", "stopping"] = Field(
        description="`ok`, or why the server cannot be sent work: its models are being `loading`, "
        "they `failed` to load, or it is `stopping`."
    )
    message: str | None = Field(default=None, description="More about it, for people.")
    version: str | None = Field(default=None, description="The version of the server.")


class ModelsCleared(WireModel):
    """The models were unloaded and the caches emptied."""

    model_config = examples({"status": "cleared"})

    status: Literal["cleared"] = Field(description="Always `cleared`.")


class Checkpoint(WireModel):
    """Weights that this server answers with."""

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
        }
    )

    family: Literal["sam2", "sam3"] = Field(description="The architecture.")
    name: str = Field(description="The name that requests use.")
    source: str = Field(description="Where the weights come from: `demo`, a path, or an id.")
    device: str = Field(description="Where they compute.")
    dtype: str = Field(description="The arithmetic they compute in.")
    loaded: bool = Field(description="Whether they are in memory now.")
    cache_dtype: str | None = Field(default=None, description="What image embeddings are kept in.")
    threads: int | None = Field(default=None, description="CPU threads that they may use.")
    encode_batch: int | None = Field(
        default=None, description="Most images that are encoded in one forward."
    )
    decode_batch: int | None = Field(
        default=None, description="Most prompts that are decoded in one forward."
    )


class ModelsResponse(WireModel):
    """The models that this server knows."""

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

    models: dict[str, list[str]] = Field(description="The ids of the models, by version.")
    loaded: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        description="`[version, id]` of each model in memory."
    )
    checkpoints: list[Checkpoint] = Field(description="What the models are made of.")
