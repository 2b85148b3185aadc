"""Requests that only jobs accept: rasters of the server's directory, and results as files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import examples
from schemas.roboflow.concept import Sam3SegmentationRequest
from schemas.roboflow.image import EXAMPLE_IMAGE, InferenceRequestImage
from schemas.roboflow.visual import VisualSegmentationRequest

ResultFormat = TypeAliasType(
    "ResultFormat",
    Annotated[
        Literal["coco", "geojson", "geotiff"],
        Field(
            description="`coco`: annotations; `geojson`: polygons; `geotiff`: a raster of ids, in "
            "which the better score is on top."
        ),
    ],
)


class JobSource(InferenceRequestImage):
    """An image, given by URL, as base64, or by its name in the server's directory of rasters."""

    type: Literal["url", "base64", "file"] = Field(  # type: ignore[assignment]  # one more
        description="How the image is given: by URL, as base64, or as a `file` of the directory "
        "that the server's administrator chose (`INFERENCE_RASTER_DIRECTORY`)."
    )
    value: str = Field(
        min_length=1,
        repr=False,
        description="URL of the image, the base64-encoded file, or the name of the file, such as "
        "`2026/ortho.tif`.",
    )


class ConceptJobRequest(Sam3SegmentationRequest):
    """Find all instances of each concept, as a job."""

    model_config = examples(
        {
            "image": EXAMPLE_IMAGE,
            "prompts": [{"type": "text", "text": "red circle"}],
            "files": ["geojson", "geotiff"],
        }
    )

    image: JobSource | None = Field(
        default=None,
        validate_default=True,
        description="The image. Optional if `image_id` refers to an image that is still cached.",
    )
    files: Annotated[list[ResultFormat], Field(max_length=3)] = Field(
        default_factory=list,
        description="Result as files in these formats, for rasters with many objects. Default: "
        "none, the result is the JSON of the synchronous endpoint.",
    )
    geojson_crs: Annotated[str, Field(max_length=64)] | None = Field(
        default=None,
        description="CRS of the GeoJSON file: an EPSG code such as `4326`. Default: that of the "
        "image.",
    )

    @model_validator(mode="before")
    @classmethod
    def _has_geojson(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("geojson_crs") is not None:
            files = data.get("files")
            if not isinstance(files, list) or "geojson" not in files:
                raise PydanticCustomError(
                    "geojson_crs",
                    "geojson_crs is for the GeoJSON file, which files does not ask for; add "
                    "geojson to files, or leave geojson_crs out",
                )
        return data


class VisualJobRequest(VisualSegmentationRequest):
    """Segment one object per prompt, as a job."""

    image: JobSource | None = Field(
        default=None,
        validate_default=True,
        description="The image. Optional if `image_id` refers to an image that is still cached.",
    )
