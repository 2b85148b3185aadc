"""What every Roboflow request says about its image, and encoding an image ahead of requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import Identifier, InputModel, WireModel, examples

EXAMPLE_IMAGE = {"type": "url", "value": "https://media.roboflow.com/notebooks/examples/dog.jpeg"}


class InferenceRequestImage(InputModel):
    """An image, by its address or in the request itself."""

    model_config = examples(EXAMPLE_IMAGE, {"type": "base64", "value": "iVBORw0KGgo="})

    type: Literal["url", "base64"] = Field(description="How the image is given.")
    value: str = Field(
        min_length=1,
        repr=False,
        description="The address of the image, or its file in base64, with or without a "
        "`data:image/…;base64,` prefix.",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_one_image(cls, data: Any) -> Any:
        if isinstance(data, list):
            raise PydanticCustomError(
                "one_image",
                "One image a request: send an object with type and value, not a list "
                "(inference-sdk: leave max_batch_size at 1)",
            )
        if isinstance(data, dict) and data.get("type") in ("numpy", "numpy_object"):
            raise PydanticCustomError(
                "image_type", "NumPy images are not accepted: send type 'url' or 'base64'"
            )
        return data


class ImageRequest(InputModel):
    """What every request says about its image and its sender."""

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="The API key, for clients that send it here; a header or the query does "
        "as well.",
    )
    image_id: Identifier | None = Field(
        default=None,
        description="A name for the image. Its embedding is kept under this name, and a later "
        "request with the same name need not send the image again.",
    )
    image: InferenceRequestImage | None = Field(
        default=None,
        validate_default=True,
        description="The image. It may be left out when `image_id` names one that the server "
        "still has.",
    )

    @field_validator("image")
    @classmethod
    def _image_or_id(
        cls, image: InferenceRequestImage | None, info: ValidationInfo
    ) -> InferenceRequestImage | None:
        # An `image_id` that failed its own validation is not in `info.data`: one error is enough.
        if image is None and info.data.get("image_id", "") is None:
            raise PydanticCustomError(
                "missing", "An image is required, or the image_id of one sent before"
            )
        return image


Sam2Version = TypeAliasType(
    "Sam2Version",
    Annotated[
        Literal["hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large"],
        Field(description="A size of SAM 2."),
    ],
)


class EmbeddingRequest(ImageRequest):
    """Encode an image ahead of the requests about it."""

    model_config = examples({"image": EXAMPLE_IMAGE, "image_id": "dog-1"})

    sam2_version_id: Sam2Version = Field(
        default="hiera_large", description="The size of SAM 2 to encode the image for."
    )


class EmbeddingResponse(WireModel):
    """The image is encoded."""

    model_config = examples({"image_id": "dog-1", "time": 0.214})

    image_id: str = Field(
        description="The name to use in later requests: the one that was sent, or else a digest."
    )
    time: float = Field(description="Seconds that it took.")
