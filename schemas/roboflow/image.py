"""The image part of all Roboflow requests, and the request that encodes an image in advance."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import File, Identifier, InputModel, WireModel, examples
from schemas.example_scene import EXAMPLE_SCENE

EXAMPLE_IMAGE = {"type": "base64", "value": EXAMPLE_SCENE}


class InferenceRequestImage(InputModel):
    """An image, given by URL or as base64."""

    model_config = examples(EXAMPLE_IMAGE)

    type: Literal["url", "base64"] = Field(
        description="How the image is sent: by URL or as base64."
    )
    value: str = Field(
        min_length=1,
        repr=False,
        description="URL of the image, or the base64-encoded file, with or without a "
        "`data:image/…;base64,` prefix.",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_one_image(cls, data: Any) -> Any:
        if isinstance(data, list):
            raise PydanticCustomError(
                "one_image",
                "One image per request is accepted, got a list; send an object with type and "
                "value (inference-sdk: leave max_batch_size at 1)",
            )
        if isinstance(data, dict) and data.get("type") in ("numpy", "numpy_object"):
            raise PydanticCustomError(
                "image_type", "NumPy images are not accepted; send type 'url' or 'base64'"
            )
        return data


class ImageFields(InputModel):
    """Fields of all requests, without the image: the JSON part of a form."""

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="API key. It can also be sent in a header or the query string.",
    )
    image_id: Identifier | None = Field(
        default=None,
        description="Client-chosen id under which the server caches the image. Later requests with "
        "the same id can omit `image`.",
    )


class ImageRequest(ImageFields):
    """Fields of all requests: the image and the API key."""

    image: InferenceRequestImage | None = Field(
        default=None,
        validate_default=True,
        description="The image. Optional if `image_id` refers to an image that is still cached.",
    )

    @field_validator("image")
    @classmethod
    def _image_or_id(
        cls, image: InferenceRequestImage | None, info: ValidationInfo
    ) -> InferenceRequestImage | None:
        # An invalid `image_id` is absent from `info.data` and has its own error already.
        if image is None and info.data.get("image_id", "") is None:
            raise PydanticCustomError(
                "missing", "The request has no image; send image, or the image_id of a cached one"
            )
        return image


class ImageForm(WireModel):
    """A `multipart/form-data` body: the image as a file, and the other fields as JSON.

    The route reads the parts itself; the schemas are for the OpenAPI document.
    """

    api_key: str | None = Field(
        default=None,
        description="API key, if not sent in a header or the query. This part must precede the "
        "image.",
    )
    image: File = Field(description="The image file, as it is: no base64.")


Sam2Version = TypeAliasType(
    "Sam2Version",
    Annotated[
        Literal["hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large"],
        Field(description="Size of a SAM 2 model."),
    ],
)


class EmbeddingFields(ImageFields):
    """Fields of a request that encodes an image in advance, without the image."""

    sam2_version_id: Sam2Version | None = Field(
        default=None,
        description="Size of the SAM 2 model to encode the image for. Without it, the image is "
        "encoded for the model that answers points and boxes.",
    )
    replace: bool = Field(
        default=False,
        description="Whether `image_id` names this image from now on, even if it names another one "
        "that is cached. Without it, the cached image stays. Needs `image` and `image_id`.",
    )

    @property
    def has_image(self) -> bool:
        """Whether the request sends the image: a form always does."""
        return True

    @model_validator(mode="after")
    def _replaces_by_an_image(self) -> EmbeddingFields:
        if self.replace and (not self.has_image or self.image_id is None):
            raise PydanticCustomError(
                "replace", "replace needs an image and its image_id; send both"
            )
        return self


class EmbeddingRequest(EmbeddingFields, ImageRequest):
    """Encode an image in advance, so that later requests with its `image_id` are fast."""

    model_config = examples({"image": EXAMPLE_IMAGE, "image_id": "scene"})

    @property
    def has_image(self) -> bool:
        """Whether the request sends the image."""
        return self.image is not None


class EmbeddingForm(ImageForm):
    """Encode an image in advance; `request` has the fields of `EmbeddingRequest` but `image`."""

    request: EmbeddingFields = Field(description="All other fields, as JSON; `{}` for none.")


class Sam2EmbeddingFields(EmbeddingFields):
    """Fields of a request that encodes an image for SAM 2, without the image."""

    sam2_version_id: Sam2Version = Field(
        default="hiera_large", description="Size of the SAM 2 model to encode the image for."
    )


class Sam2EmbeddingRequest(Sam2EmbeddingFields, EmbeddingRequest):
    """Encode an image for SAM 2."""


class Sam2EmbeddingForm(ImageForm):
    """Encode an image for SAM 2; `request` has the fields of `Sam2EmbeddingRequest` but `image`."""

    request: Sam2EmbeddingFields = Field(description="All other fields, as JSON; `{}` for none.")


class ImageForgotten(WireModel):
    """The image is not cached any more."""

    model_config = examples({"image_id": "scene", "forgotten": True})

    image_id: str = Field(description="Id of the image.")
    forgotten: bool = Field(
        description="Whether anything was cached under this id; false if the id was never used, or "
        "was evicted."
    )


class EmbeddingResponse(WireModel):
    """The image was encoded."""

    model_config = examples({"image_id": "scene", "time": 0.214})

    image_id: str = Field(
        description="Id to send in later requests: the one sent, or a digest of the image."
    )
    time: float = Field(description="Processing time in seconds.")
