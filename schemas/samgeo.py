"""samgeo's REST API: multipart forms in; GeoJSON, boxes or rasters out.

Form fields are strings, from which numbers and booleans are parsed. An empty string counts as
absent, because that is what browsers send for a field that was not filled in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel, TypeAdapter, WithJsonSchema, model_validator

from schemas.common import (
    CODE,
    Coordinate,
    File,
    Fraction,
    InputModel,
    WireModel,
    at_most,
    examples,
)

OUTPUT_FORMATS = ("detections", "geojson", "geotiff", "json", "png")
"""In the order of samgeo's error message."""

MODEL_VERSIONS = ("sam", "sam2", "sam3")
BACKENDS = ("meta", "transformers")


_NMS = (
    "Non-maximum suppression, an addition of this server: of two objects whose masks have an IoU "
    "above this value, only the one with the higher score is kept."
)


def _one_of(*names: str) -> WithJsonSchema:
    """Document the values of a string that the route validates, with samgeo's error messages."""
    return WithJsonSchema({"type": "string", "enum": list(names)})


class UploadRequest(InputModel):
    """Fields of all requests: the image, the output format and the filters."""

    file: File = Field(description="Image file: GeoTIFF, TIFF, PNG, JPEG, WebP, BMP, GIF or AVIF.")
    output_format: Annotated[str, _one_of(*OUTPUT_FORMATS)] = Field(
        default="geojson",
        description="`geojson`: polygons; `detections`: boxes as GeoJSON; both in the CRS of the "
        "image or in `geojson_crs`, or in pixels if the image has no CRS. `json`: boxes in pixels. "
        "`geotiff`, `png`: a raster of object ids.",
    )
    model_id: str | None = Field(
        default=None,
        description="Model id from `GET /models`; the largest model by default.",
    )
    geojson_crs: str | None = Field(
        default=None,
        description="CRS of the coordinates in `geojson` and `detections`, instead of the image's: "
        "an EPSG code such as `4326` (longitude, latitude), or a name such as `ESRI:54009`. For "
        "georeferenced images only.",
    )
    tiles: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether to segment a GeoTIFF by windows: `auto` if it is too large to be "
        "encoded as a whole, or larger than a `tile_size` that is sent.",
    )
    tile_size: int | None = Field(
        default=None,
        ge=1,
        description="Side of a window in pixels of the image; the side of the model's input by "
        "default.",
    )
    tile_overlap: int | None = Field(
        default=None,
        ge=0,
        description="Pixels that neighbouring windows share; an eighth of the window by default.",
    )
    bands: str | None = Field(
        default=None,
        description="Bands to show as red, green and blue, such as `3,2,1`, or one for grey; "
        "those that the file says by default. TIFF only.",
    )
    min_size: int = Field(default=0, description="Minimum area of an object, in pixels.")
    max_size: int | None = Field(
        default=None, description="Maximum area of an object, in pixels; 0 or less for no limit."
    )
    api_key: str | None = Field(
        default=None,
        description="API key, if not sent in a header or the query. This part must precede the "
        "file.",
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
    """A request that selects a model family."""

    model_version: Annotated[str, _one_of(*MODEL_VERSIONS)] = Field(
        default="sam2", description="Model family: the original SAM, `sam2` or `sam3`."
    )


class AutomaticRequest(VersionedRequest):
    """Segment everything: SAM 1 and 2 with a grid of points, SAM 3 with the prompt `everything`."""

    model_version: Annotated[str, _one_of(*MODEL_VERSIONS)] = Field(
        default="sam2",
        description="Model family: the original SAM, `sam2` or `sam3`. The default is `sam3` if "
        "the server follows samgeo 1.3.3 or later (`INFERENCE_SAMGEO_VERSION`).",
    )
    foreground: bool = Field(
        default=True,
        description="Only with `unique=false`: true draws filled objects (255 on 0); "
        "false draws their outlines (0 on 255).",
    )
    unique: bool = Field(
        default=True,
        description="Give each object its own id; false returns a raster of 0 and 255.",
    )
    points_per_side: int = Field(
        default=32, ge=1, le=128, description="Grid points per side of the image. SAM 1 and 2 only."
    )
    pred_iou_thresh: Fraction = Field(
        default=0.8, description="Minimum predicted IoU of a mask. SAM 1 and 2 only."
    )
    stability_score_thresh: Fraction = Field(
        default=0.95,
        description="Minimum stability score of a mask: the IoU of the masks at a higher and a "
        "lower threshold. SAM 1 and 2 only.",
    )
    nms_iou_threshold: Fraction | None = Field(
        default=None, description=f"{_NMS} By default 0.7 with SAM 1 and 2; SAM 3 keeps all."
    )


class PredictRequest(VersionedRequest):
    """Segment by points or boxes. At least one of `point_coords` and `boxes` is required."""

    model_version: Annotated[str, _one_of(*MODEL_VERSIONS)] = Field(
        default="sam3",
        description="`sam3`: boxes are exemplars that find all similar objects, points select one "
        "object. `sam` and `sam2`: each box selects one object, and all points together select "
        "one; with a single box, the points refine its object.",
    )
    point_coords: str | None = Field(
        default=None, description="JSON `[[x, y], …]`: points of one object."
    )
    point_labels: str | None = Field(
        default=None,
        description="JSON `[1, 0, …]`: one label per point, 1 on the object, 0 outside it; all 1 "
        "by default.",
    )
    boxes: str | None = Field(
        default=None,
        description="JSON `[[xmin, ymin, xmax, ymax], …]`, or a single flat box. What reaches past "
        "the image's border is cut off.",
    )
    point_crs: str | None = Field(
        default=None,
        description="CRS of points and boxes, such as `EPSG:4326`; coordinates are in x, y order "
        "(longitude, latitude). Without it, coordinates are pixels.",
    )
    multimask_output: bool = Field(default=False, description="Return three masks per prompt.")


class TextRequest(UploadRequest):
    """Segment by a text prompt (SAM 3)."""

    prompt: Annotated[str, at_most("max_text_length", "characters of text")] = Field(
        description="What to find: a short noun phrase, such as `building` or `tree`."
    )
    backend: Annotated[str, _one_of(*BACKENDS)] = Field(
        default="meta", description="Accepted for compatibility; has no effect."
    )
    confidence_threshold: Fraction = Field(default=0.5, description="Minimum score of an object.")
    nms_iou_threshold: Fraction | None = Field(
        default=None, description=f"{_NMS} By default all are kept."
    )


Points = TypeAdapter(list[tuple[Coordinate, Coordinate]])
"""`[[x, y], …]`"""

PointLabels = TypeAdapter(list[Literal[0, 1]])
"""`[1, 0, …]`"""

Boxes = TypeAdapter(list[tuple[Coordinate, Coordinate, Coordinate, Coordinate]])
"""`[[xmin, ymin, xmax, ymax], …]`"""


class CrsName(WireModel):
    """The name of a coordinate reference system."""

    name: str = Field(
        description="`urn:ogc:def:crs:EPSG::N`, or the same of another authority; for EPSG:4326 "
        "the URN of CRS84; WKT if no code defines the CRS."
    )


class NamedCrs(WireModel):
    """A coordinate reference system (CRS), in the form of GeoJSON 2008."""

    type: Literal["name"] = Field(description="Always `name`.")
    properties: CrsName = Field(description="Name of the CRS.")


class PolygonGeometry(WireModel):
    """A polygon: its outline, followed by its holes."""

    type: Literal["Polygon"] = Field(description="GeoJSON type.")
    coordinates: list[list[list[float]]] = Field(
        description="Closed rings of `[x, y]`, in the CRS of the collection or, without one, in "
        "pixels."
    )


class MaskProperties(WireModel):
    """The object that a polygon belongs to."""

    value: float = Field(description="Object id; 255 with `unique=false`.")
    score: float | None = Field(
        default=None, description="Confidence or predicted IoU, from 0 to 1."
    )


class MaskFeature(WireModel):
    """One connected part of an object."""

    type: Literal["Feature"] = Field(description="GeoJSON type.")
    properties: MaskProperties = Field(description="The object that the part belongs to.")
    geometry: PolygonGeometry = Field(description="Outline and holes.")


class MaskCollection(WireModel):
    """Objects as polygons: `output_format=geojson`."""

    type: Literal["FeatureCollection"] = Field(description="GeoJSON type.")
    name: str = Field(description="Always `output`.")
    crs: NamedCrs | None = Field(
        default=None, description="CRS of the image; absent if it has none."
    )
    features: list[MaskFeature] = Field(
        description="Connected parts of objects, from top to bottom of the image."
    )


class BoxProperties(WireModel):
    """Id, score and box of an object."""

    id: int = Field(description="Number of the object, starting at 1.")
    value: float | None = Field(default=None, description="Object id in rasters.")
    score: float | None = Field(default=None, description="Confidence from 0 to 1.")
    bbox_pixel: Annotated[list[float], Field(min_length=4, max_length=4)] = Field(
        description="`[x1, y1, x2, y2]` in pixels."
    )


class BoxFeature(WireModel):
    """The bounding box of an object, as GeoJSON."""

    type: Literal["Feature"] = Field(description="GeoJSON type.")
    geometry: PolygonGeometry = Field(
        description="Corners: top left, top right, bottom right, bottom left, top left."
    )
    properties: BoxProperties = Field(description="Id, score and box of the object.")


class BoxCollection(WireModel):
    """Objects as georeferenced boxes: `output_format=detections`."""

    type: Literal["FeatureCollection"] = Field(description="GeoJSON type.")
    crs: str | None = Field(
        default=None,
        description="CRS as `EPSG:N`, or the same of another authority; WKT if no code defines it; "
        "absent if the image has none.",
    )
    num_detections: int = Field(description="Number of objects.")
    features: list[BoxFeature] = Field(description="One entry per object.")


class Detection(WireModel):
    """The bounding box of an object, in pixels."""

    id: int = Field(description="Number of the object, starting at 1.")
    value: float | None = Field(default=None, description="Object id in rasters.")
    score: float | None = Field(default=None, description="Confidence from 0 to 1.")
    bbox: Annotated[list[int], Field(min_length=4, max_length=4)] = Field(
        description="`[x1, y1, x2, y2]` in pixels."
    )
    width: int = Field(description="Width of the box (x2 - x1), in pixels.")
    height: int = Field(description="Height of the box (y2 - y1), in pixels.")


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

    image_width: int = Field(description="Width of the image, in pixels.")
    image_height: int = Field(description="Height of the image, in pixels.")
    num_detections: int = Field(description="Number of objects.")
    detections: list[Detection] = Field(description="One entry per object.")


class SegmentationResult(RootModel[DetectionList | BoxCollection | MaskCollection]):
    """The JSON response for `output_format` `json`, `detections` or `geojson`."""


class ErrorDetail(WireModel):
    """What went wrong, and how to fix it."""

    model_config = examples(
        {"detail": "No objects found for the given prompts.", "code": "nothing_found"}
    )

    detail: str = Field(description="Human-readable error message.")
    code: str | None = Field(default=None, description=CODE)
