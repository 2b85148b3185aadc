"""samgeo's REST API: multipart forms in; GeoJSON, lists of boxes, or rasters out.

A form's fields are texts: numbers and switches are read from them, and an empty text counts as
absent, as browsers send it for a field that nobody filled in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, RootModel, TypeAdapter, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from schemas.common import Coordinate, Fraction, InputModel, WireModel, at_most, examples

OUTPUT_FORMATS = ("detections", "geojson", "geotiff", "json", "png")
"""In the order in which the vendor's error lists them."""

MODEL_VERSIONS = ("sam", "sam2", "sam3")
BACKENDS = ("meta", "transformers")


def _is_file(value: Any) -> Any:
    if isinstance(value, str):
        raise PydanticCustomError(
            "file", "Send the image as a file: a part with a filename in multipart/form-data"
        )
    return value


File = Annotated[
    Any, BeforeValidator(_is_file), WithJsonSchema({"type": "string", "format": "binary"})
]
"""An uploaded file."""


def _one_of(*names: str) -> WithJsonSchema:
    """For a text whose values are checked by the route, in the contract's order and words."""
    return WithJsonSchema({"type": "string", "enum": list(names)})


class UploadRequest(InputModel):
    """What every request has: an image, and the form of the answer."""

    file: File = Field(description="The image: GeoTIFF, TIFF, PNG, JPEG, WebP, BMP, GIF or AVIF.")
    output_format: Annotated[str, _one_of(*OUTPUT_FORMATS)] = Field(
        default="geojson",
        description="`geojson`: polygons; `detections`: boxes as GeoJSON; both in the image's CRS, "
        "or in pixels without one. `json`: boxes in pixels. `geotiff`, `png`: a raster of ids.",
    )
    model_id: str | None = Field(
        default=None,
        description="One of the ids that `GET /models` lists; the largest model by default.",
    )
    min_size: int = Field(default=0, description="Least pixels of an object.")
    max_size: int | None = Field(
        default=None, description="Most pixels of an object; 0 or less is no limit."
    )
    api_key: str | None = Field(
        default=None,
        description="The key, if it is sent nowhere else. It has to come before the file.",
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: value for key, value in data.items() if not isinstance(value, str) or value.strip()
        }


class VersionedRequest(UploadRequest):
    """A request that chooses among the models."""

    model_version: Annotated[str, _one_of(*MODEL_VERSIONS)] = Field(
        default="sam2", description="The family of the model. This server has `sam2` and `sam3`."
    )


class AutomaticRequest(VersionedRequest):
    """Segment everything: SAM 2 by a grid of points, SAM 3 by the word `everything`."""

    foreground: bool = Field(
        default=True,
        description="With `unique=false`: start from an empty raster; false starts from a full "
        "one, in which the objects' outlines are 0.",
    )
    unique: bool = Field(
        default=True, description="An id for each object; false makes one raster of 0 and 255."
    )
    points_per_side: int = Field(
        default=32, ge=1, le=128, description="The grid has as many points squared. SAM 2 only."
    )
    pred_iou_thresh: Fraction = Field(
        default=0.8, description="Least predicted IoU of a mask. SAM 2 only."
    )
    stability_score_thresh: Fraction = Field(
        default=0.95,
        description="Least stability of a mask against a change of its threshold. SAM 2 only.",
    )


class PredictRequest(VersionedRequest):
    """Points or boxes. At least one of `point_coords` and `boxes` is needed."""

    model_version: Annotated[str, _one_of(*MODEL_VERSIONS)] = Field(
        default="sam3",
        description="`sam3`: boxes find all objects that are like what they hold, points one "
        "object. `sam2`: each box, and all points together, find one object each; points beside "
        "a single box refine it.",
    )
    point_coords: str | None = Field(
        default=None, description="JSON: `[[x, y], …]`, points on one object."
    )
    point_labels: str | None = Field(
        default=None,
        description="JSON: `[1, 0, …]`, 1 on the object, 0 beside it; all 1 by default.",
    )
    boxes: str | None = Field(
        default=None, description="JSON: `[[xmin, ymin, xmax, ymax], …]`, or one flat box."
    )
    point_crs: str | None = Field(
        default=None,
        description="CRS of points and boxes, such as `EPSG:4326`, in the order x, y "
        "(longitude, latitude). Without it they are pixels.",
    )
    multimask_output: bool = Field(default=False, description="Three masks for each prompt.")


class TextRequest(UploadRequest):
    """A concept in words. SAM 3."""

    prompt: Annotated[str, at_most("max_text_length", "characters of text")] = Field(
        description="What to look for, in a few words: `building`, `tree`."
    )
    backend: Annotated[str, _one_of(*BACKENDS)] = Field(
        default="meta", description="Accepted, and without effect: this server has one engine."
    )
    confidence_threshold: Fraction = Field(default=0.5, description="Least score of an object.")


Points = TypeAdapter(list[tuple[Coordinate, Coordinate]])
"""`[[x, y], …]`"""

PointLabels = TypeAdapter(list[Literal[0, 1]])
"""`[1, 0, …]`"""

Boxes = TypeAdapter(list[tuple[Coordinate, Coordinate, Coordinate, Coordinate]])
"""`[[xmin, ymin, xmax, ymax], …]`"""


class CrsName(WireModel):
    """The name of a coordinate reference system."""

    name: str = Field(description="`urn:ogc:def:crs:EPSG::N`, for 4326 that of CRS84.")


class NamedCrs(WireModel):
    """A coordinate reference system, as the first edition of GeoJSON wrote it."""

    type: Literal["name"] = Field(description="How it is told.")
    properties: CrsName = Field(description="Its name.")


class PolygonGeometry(WireModel):
    """A polygon: its outline, then its holes."""

    type: Literal["Polygon"] = Field(description="What it is.")
    coordinates: list[list[list[float]]] = Field(
        description="Closed rings of `[x, y]` in the collection's CRS, or in pixels without one."
    )


class MaskProperties(WireModel):
    """Which object a polygon belongs to."""

    value: float = Field(description="The object's id, or 255 with `unique=false`.")
    score: float | None = Field(default=None, description="Confidence, or predicted IoU.")


class MaskFeature(WireModel):
    """One connected part of an object."""

    type: Literal["Feature"] = Field(description="What it is.")
    properties: MaskProperties = Field(description="Which object it is a part of.")
    geometry: PolygonGeometry = Field(description="Where it is.")


class MaskCollection(WireModel):
    """Objects as polygons: `output_format=geojson`."""

    type: Literal["FeatureCollection"] = Field(description="What it is.")
    name: str = Field(description="`output`.")
    crs: NamedCrs | None = Field(
        default=None, description="The image's CRS; absent where it has none."
    )
    features: list[MaskFeature] = Field(description="Parts, from the top of the image down.")


class BoxProperties(WireModel):
    """One object in numbers."""

    id: int = Field(description="From 1.")
    value: float | None = Field(default=None, description="The object's id in rasters.")
    score: float | None = Field(default=None, description="Confidence.")
    bbox_pixel: Annotated[list[float], Field(min_length=4, max_length=4)] = Field(
        description="`[x1, y1, x2, y2]` in pixels."
    )


class BoxFeature(WireModel):
    """The box of an object."""

    type: Literal["Feature"] = Field(description="What it is.")
    geometry: PolygonGeometry = Field(
        description="Top left, top right, bottom right, bottom left, top left."
    )
    properties: BoxProperties = Field(description="The object.")


class BoxCollection(WireModel):
    """Objects as boxes on the map: `output_format=detections`."""

    type: Literal["FeatureCollection"] = Field(description="What it is.")
    crs: str | None = Field(default=None, description="`EPSG:N`; absent where there is none.")
    num_detections: int = Field(description="How many objects there are.")
    features: list[BoxFeature] = Field(description="The objects.")


class Detection(WireModel):
    """The box of an object in pixels."""

    id: int = Field(description="From 1.")
    value: float | None = Field(default=None, description="The object's id in rasters.")
    score: float | None = Field(default=None, description="Confidence.")
    bbox: Annotated[list[int], Field(min_length=4, max_length=4)] = Field(
        description="`[x1, y1, x2, y2]`."
    )
    width: int = Field(description="x2 - x1.")
    height: int = Field(description="y2 - y1.")


class DetectionList(WireModel):
    """Objects as boxes in pixels: `output_format=json`."""

    model_config = examples(
        {
            "image_width": 2647,
            "image_height": 1464,
            "num_detections": 1,
            "detections": [
                {"id": 1, "bbox": [50, 80, 200, 250], "width": 150, "height": 170, "score": 0.887}
            ],
        }
    )

    image_width: int = Field(description="In pixels.")
    image_height: int = Field(description="In pixels.")
    num_detections: int = Field(description="How many objects there are.")
    detections: list[Detection] = Field(description="The objects.")


class SegmentationResult(RootModel[DetectionList | BoxCollection | MaskCollection]):
    """The JSON answers, by `output_format`: `json`, `detections`, `geojson`."""


class ErrorDetail(WireModel):
    """What went wrong, and what to do about it."""

    model_config = examples({"detail": "No objects found for the given prompts."})

    detail: str = Field(description="What went wrong, for people.")
