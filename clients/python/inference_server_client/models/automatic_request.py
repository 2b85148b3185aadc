from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from .. import types
from ..models.automatic_request_model_version import (
    AutomaticRequestModelVersion,
    check_automatic_request_model_version,
)
from ..models.automatic_request_output_format import (
    AutomaticRequestOutputFormat,
    check_automatic_request_output_format,
)
from ..models.automatic_request_tiles import (
    AutomaticRequestTiles,
    check_automatic_request_tiles,
)
from ..types import UNSET, File, Unset

T = TypeVar("T", bound="AutomaticRequest")


@_attrs_define
class AutomaticRequest:
    """Segment everything: SAM 1 and 2 with a grid of points, SAM 3 with the prompt `everything`.

    Attributes:
        file (File): Image file: GeoTIFF, TIFF, PNG, JPEG, WebP, BMP, GIF or AVIF.
        output_format (AutomaticRequestOutputFormat | Unset): `geojson`: polygons; `detections`: boxes as GeoJSON; both
            in the CRS of the image or in `geojson_crs`, or in pixels if the image has no CRS. `json`: boxes in pixels.
            `geotiff`, `png`: a raster of object ids. Default: 'geojson'.
        model_id (str | Unset): Model id from `GET /models`; the largest model by default.
        geojson_crs (str | Unset): CRS of the coordinates in `geojson` and `detections`, instead of the image's: an EPSG
            code such as `4326` (longitude, latitude), or a name such as `ESRI:54009`. For georeferenced images only.
        tiles (AutomaticRequestTiles | Unset): Whether to segment a GeoTIFF by windows: `auto` if it is too large to be
            encoded as a whole, or larger than a `tile_size` that is sent. Default: 'auto'.
        tile_size (int | Unset): Side of a window in pixels of the image; the side of the model's input by default.
        tile_overlap (int | Unset): Pixels that neighbouring windows share; an eighth of the window by default.
        bands (str | Unset): Bands to show as red, green and blue, such as `3,2,1`, or one for grey; those that the file
            says by default. TIFF only.
        min_size (int | Unset): Minimum area of an object, in pixels. Default: 0.
        max_size (int | Unset): Maximum area of an object, in pixels; 0 or less for no limit.
        api_key (str | Unset): API key, if not sent in a header or the query. This part must precede the file.
        model_version (AutomaticRequestModelVersion | Unset): Model family: the original SAM, `sam2` or `sam3`. The
            default is `sam3` if the server follows samgeo 1.3.3 or later (`INFERENCE_SAMGEO_VERSION`). Default: 'sam2'.
        foreground (bool | Unset): Only with `unique=false`: true draws filled objects (255 on 0); false draws their
            outlines (0 on 255). Default: True.
        unique (bool | Unset): Give each object its own id; false returns a raster of 0 and 255. Default: True.
        points_per_side (int | Unset): Grid points per side of the image. SAM 1 and 2 only. Default: 32.
        pred_iou_thresh (float | Unset): Minimum predicted IoU of a mask. SAM 1 and 2 only. Default: 0.8.
        stability_score_thresh (float | Unset): Minimum stability score of a mask: the IoU of the masks at a higher and
            a lower threshold. SAM 1 and 2 only. Default: 0.95.
        nms_iou_threshold (float | Unset): Non-maximum suppression, an addition of this server: of two objects whose
            masks have an IoU above this value, only the one with the higher score is kept. By default 0.7 with SAM 1 and 2;
            SAM 3 keeps all.
    """

    file: File
    output_format: AutomaticRequestOutputFormat | Unset = "geojson"
    model_id: str | Unset = UNSET
    geojson_crs: str | Unset = UNSET
    tiles: AutomaticRequestTiles | Unset = "auto"
    tile_size: int | Unset = UNSET
    tile_overlap: int | Unset = UNSET
    bands: str | Unset = UNSET
    min_size: int | Unset = 0
    max_size: int | Unset = UNSET
    api_key: str | Unset = UNSET
    model_version: AutomaticRequestModelVersion | Unset = "sam2"
    foreground: bool | Unset = True
    unique: bool | Unset = True
    points_per_side: int | Unset = 32
    pred_iou_thresh: float | Unset = 0.8
    stability_score_thresh: float | Unset = 0.95
    nms_iou_threshold: float | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        file = self.file.to_tuple()

        output_format: str | Unset = UNSET
        if not isinstance(self.output_format, Unset):
            output_format = self.output_format

        model_id = self.model_id

        geojson_crs = self.geojson_crs

        tiles: str | Unset = UNSET
        if not isinstance(self.tiles, Unset):
            tiles = self.tiles

        tile_size = self.tile_size

        tile_overlap = self.tile_overlap

        bands = self.bands

        min_size = self.min_size

        max_size = self.max_size

        api_key = self.api_key

        model_version: str | Unset = UNSET
        if not isinstance(self.model_version, Unset):
            model_version = self.model_version

        foreground = self.foreground

        unique = self.unique

        points_per_side = self.points_per_side

        pred_iou_thresh = self.pred_iou_thresh

        stability_score_thresh = self.stability_score_thresh

        nms_iou_threshold = self.nms_iou_threshold

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "file": file,
            }
        )
        if output_format is not UNSET:
            field_dict["output_format"] = output_format
        if model_id is not UNSET:
            field_dict["model_id"] = model_id
        if geojson_crs is not UNSET:
            field_dict["geojson_crs"] = geojson_crs
        if tiles is not UNSET:
            field_dict["tiles"] = tiles
        if tile_size is not UNSET:
            field_dict["tile_size"] = tile_size
        if tile_overlap is not UNSET:
            field_dict["tile_overlap"] = tile_overlap
        if bands is not UNSET:
            field_dict["bands"] = bands
        if min_size is not UNSET:
            field_dict["min_size"] = min_size
        if max_size is not UNSET:
            field_dict["max_size"] = max_size
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if model_version is not UNSET:
            field_dict["model_version"] = model_version
        if foreground is not UNSET:
            field_dict["foreground"] = foreground
        if unique is not UNSET:
            field_dict["unique"] = unique
        if points_per_side is not UNSET:
            field_dict["points_per_side"] = points_per_side
        if pred_iou_thresh is not UNSET:
            field_dict["pred_iou_thresh"] = pred_iou_thresh
        if stability_score_thresh is not UNSET:
            field_dict["stability_score_thresh"] = stability_score_thresh
        if nms_iou_threshold is not UNSET:
            field_dict["nms_iou_threshold"] = nms_iou_threshold

        return field_dict

    def to_multipart(self) -> types.RequestFiles:
        files: types.RequestFiles = []

        files.append(("file", self.file.to_tuple()))

        if not isinstance(self.output_format, Unset):
            files.append(("output_format", (None, str(self.output_format).encode(), "text/plain")))

        if not isinstance(self.model_id, Unset):
            files.append(("model_id", (None, str(self.model_id).encode(), "text/plain")))

        if not isinstance(self.geojson_crs, Unset):
            files.append(("geojson_crs", (None, str(self.geojson_crs).encode(), "text/plain")))

        if not isinstance(self.tiles, Unset):
            files.append(("tiles", (None, str(self.tiles).encode(), "text/plain")))

        if not isinstance(self.tile_size, Unset):
            files.append(("tile_size", (None, str(self.tile_size).encode(), "text/plain")))

        if not isinstance(self.tile_overlap, Unset):
            files.append(("tile_overlap", (None, str(self.tile_overlap).encode(), "text/plain")))

        if not isinstance(self.bands, Unset):
            files.append(("bands", (None, str(self.bands).encode(), "text/plain")))

        if not isinstance(self.min_size, Unset):
            files.append(("min_size", (None, str(self.min_size).encode(), "text/plain")))

        if not isinstance(self.max_size, Unset):
            files.append(("max_size", (None, str(self.max_size).encode(), "text/plain")))

        if not isinstance(self.api_key, Unset):
            files.append(("api_key", (None, str(self.api_key).encode(), "text/plain")))

        if not isinstance(self.model_version, Unset):
            files.append(("model_version", (None, str(self.model_version).encode(), "text/plain")))

        if not isinstance(self.foreground, Unset):
            files.append(("foreground", (None, str(self.foreground).encode(), "text/plain")))

        if not isinstance(self.unique, Unset):
            files.append(("unique", (None, str(self.unique).encode(), "text/plain")))

        if not isinstance(self.points_per_side, Unset):
            files.append(
                ("points_per_side", (None, str(self.points_per_side).encode(), "text/plain"))
            )

        if not isinstance(self.pred_iou_thresh, Unset):
            files.append(
                ("pred_iou_thresh", (None, str(self.pred_iou_thresh).encode(), "text/plain"))
            )

        if not isinstance(self.stability_score_thresh, Unset):
            files.append(
                (
                    "stability_score_thresh",
                    (None, str(self.stability_score_thresh).encode(), "text/plain"),
                )
            )

        if not isinstance(self.nms_iou_threshold, Unset):
            files.append(
                ("nms_iou_threshold", (None, str(self.nms_iou_threshold).encode(), "text/plain"))
            )

        for prop_name, prop in self.additional_properties.items():
            files.append((prop_name, (None, str(prop).encode(), "text/plain")))

        return files

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        file = File(payload=BytesIO(d.pop("file")))

        _output_format = d.pop("output_format", UNSET)
        output_format: AutomaticRequestOutputFormat | Unset
        if isinstance(_output_format, Unset):
            output_format = UNSET
        else:
            output_format = check_automatic_request_output_format(_output_format)

        model_id = d.pop("model_id", UNSET)

        geojson_crs = d.pop("geojson_crs", UNSET)

        _tiles = d.pop("tiles", UNSET)
        tiles: AutomaticRequestTiles | Unset
        if isinstance(_tiles, Unset):
            tiles = UNSET
        else:
            tiles = check_automatic_request_tiles(_tiles)

        tile_size = d.pop("tile_size", UNSET)

        tile_overlap = d.pop("tile_overlap", UNSET)

        bands = d.pop("bands", UNSET)

        min_size = d.pop("min_size", UNSET)

        max_size = d.pop("max_size", UNSET)

        api_key = d.pop("api_key", UNSET)

        _model_version = d.pop("model_version", UNSET)
        model_version: AutomaticRequestModelVersion | Unset
        if isinstance(_model_version, Unset):
            model_version = UNSET
        else:
            model_version = check_automatic_request_model_version(_model_version)

        foreground = d.pop("foreground", UNSET)

        unique = d.pop("unique", UNSET)

        points_per_side = d.pop("points_per_side", UNSET)

        pred_iou_thresh = d.pop("pred_iou_thresh", UNSET)

        stability_score_thresh = d.pop("stability_score_thresh", UNSET)

        nms_iou_threshold = d.pop("nms_iou_threshold", UNSET)

        automatic_request = cls(
            file=file,
            output_format=output_format,
            model_id=model_id,
            geojson_crs=geojson_crs,
            tiles=tiles,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            bands=bands,
            min_size=min_size,
            max_size=max_size,
            api_key=api_key,
            model_version=model_version,
            foreground=foreground,
            unique=unique,
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            nms_iou_threshold=nms_iou_threshold,
        )

        automatic_request.additional_properties = d
        return automatic_request

    @property
    def additional_keys(self) -> list[str]:
        return list(self.additional_properties.keys())

    def __getitem__(self, key: str) -> Any:
        return self.additional_properties[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.additional_properties[key] = value

    def __delitem__(self, key: str) -> None:
        del self.additional_properties[key]

    def __contains__(self, key: str) -> bool:
        return key in self.additional_properties
