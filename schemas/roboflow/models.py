"""The models in memory: list, load and unload them."""

from __future__ import annotations

from pydantic import Field

from schemas.common import Identifier, InputModel, WireModel, examples


class ServerVersionInfo(WireModel):
    """Name, version and identity of this server."""

    model_config = examples(
        {
            "name": "inference-server",
            "version": "0.2.0",
            "uuid": "1b4e28ba-2fa1-4d2d-883f-0016d3cca427",
        }
    )

    name: str = Field(description="Name of the product.")
    version: str = Field(description="Version of the server.")
    uuid: str = Field(
        description="Random id of the process that answered; another one after a restart."
    )


class ClearModelRequest(InputModel):
    """Unload a model."""

    model_config = examples({"model_id": "sam3/sam3_final"})

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="API key. It can also be sent in a header or the query string.",
    )
    model_id: Identifier = Field(
        description="Id of the model, such as `sam3/sam3_final`, `sam2/hiera_large`, or a name "
        "from `INFERENCE_SAM3_MODELS`."
    )


class AddModelRequest(ClearModelRequest):
    """Load a model."""


class ModelDescriptionEntity(WireModel):
    """A model in memory."""

    model_config = examples(
        {
            "model_id": "sam3/sam3_final",
            "task_type": "unsupervised-segmentation",
            "batch_size": 1,
            "input_height": 1008,
            "input_width": 1008,
        }
    )

    model_id: str = Field(description="Id of the model in requests.")
    task_type: str = Field(
        description="What the model does: `unsupervised-segmentation`, as Roboflow calls the task "
        "of SAM."
    )
    batch_size: int | None = Field(
        default=None, description="Maximum number of images per encoder batch."
    )
    input_height: int | None = Field(
        default=None, description="Height of the model's input in pixels."
    )
    input_width: int | None = Field(
        default=None, description="Width of the model's input in pixels."
    )


class ModelsDescriptions(WireModel):
    """The models in memory."""

    model_config = examples(
        {
            "models": [
                {
                    "model_id": "sam3/sam3_final",
                    "task_type": "unsupervised-segmentation",
                    "batch_size": 1,
                    "input_height": 1008,
                    "input_width": 1008,
                }
            ]
        }
    )

    models: list[ModelDescriptionEntity] = Field(description="One entry per model.")
