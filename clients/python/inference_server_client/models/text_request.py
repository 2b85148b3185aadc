from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from .. import types
from ..models.text_request_backend import TextRequestBackend, check_text_request_backend
from ..models.text_request_output_format import (
    TextRequestOutputFormat,
    check_text_request_output_format,
)
from ..models.text_request_tiles import TextRequestTiles, check_text_request_tiles
from ..types import UNSET, File, Unset

T = TypeVar("T", bound="TextRequest")


@_attrs_define
class TextRequest:
    """Segment by a text prompt (SAM 3).

    Attributes:
        file (File): Image file: GeoTIFF, TIFF, PNG, JPEG, WebP, BMP, GIF or AVIF.
        prompt (str): What to find: a short noun phrase, such as `building` or `tree`.
        output_format (TextRequestOutputFormat | Unset): `geojson`: polygons; `detections`: boxes as GeoJSON; both in
            the CRS of the image or in `geojson_crs`, or in pixels if the image has no CRS. `json`: boxes in pixels.
            `geotiff`, `png`: a raster of object ids. Default: 'geojson'.
        model_id (str | Unset): Model id from `GET /models`; the largest model by default.
        geojson_crs (str | Unset): CRS of the coordinates in `geojson` and `detections`, instead of the image's: an EPSG
            code such as `4326` (longitude, latitude), or a name such as `ESRI:54009`. For georeferenced images only.
        tiles (TextRequestTiles | Unset): Whether to segment a GeoTIFF by windows: `auto` if it is too large to be
            encoded as a whole, or larger than a `tile_size` that is sent. Default: 'auto'.
        tile_size (int | Unset): Side of a window in pixels of the image; the side of the model's input by default.
        tile_overlap (int | Unset): Pixels that neighbouring windows share; an eighth of the window by default.
        bands (str | Unset): Bands to show as red, green and blue, such as `3,2,1`, or one for grey; those that the file
            says by default. TIFF only.
        min_size (int | Unset): Minimum area of an object, in pixels. Default: 0.
        max_size (int | Unset): Maximum area of an object, in pixels; 0 or less for no limit.
        api_key (str | Unset): API key, if not sent in a header or the query. This part must precede the file.
        backend (TextRequestBackend | Unset): Accepted for compatibility; has no effect. Default: 'meta'.
        confidence_threshold (float | Unset): Minimum score of an object. Default: 0.5.
        nms_iou_threshold (float | Unset): Non-maximum suppression, an addition of this server: of two objects whose
            masks have an IoU above this value, only the one with the higher score is kept. By default all are kept.
    """

    file: File
    prompt: str
    output_format: TextRequestOutputFormat | Unset = "geojson"
    model_id: str | Unset = UNSET
    geojson_crs: str | Unset = UNSET
    tiles: TextRequestTiles | Unset = "auto"
    tile_size: int | Unset = UNSET
    tile_overlap: int | Unset = UNSET
    bands: str | Unset = UNSET
    min_size: int | Unset = 0
    max_size: int | Unset = UNSET
    api_key: str | Unset = UNSET
    backend: TextRequestBackend | Unset = "meta"
    confidence_threshold: float | Unset = 0.5
    nms_iou_threshold: float | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        file = self.file.to_tuple()

        prompt = self.prompt

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

        backend: str | Unset = UNSET
        if not isinstance(self.backend, Unset):
            backend = self.backend

        confidence_threshold = self.confidence_threshold

        nms_iou_threshold = self.nms_iou_threshold

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "file": file,
                "prompt": prompt,
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
        if backend is not UNSET:
            field_dict["backend"] = backend
        if confidence_threshold is not UNSET:
            field_dict["confidence_threshold"] = confidence_threshold
        if nms_iou_threshold is not UNSET:
            field_dict["nms_iou_threshold"] = nms_iou_threshold

        return field_dict

    def to_multipart(self) -> types.RequestFiles:
        files: types.RequestFiles = []

        files.append(("file", self.file.to_tuple()))

        files.append(("prompt", (None, str(self.prompt).encode(), "text/plain")))

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

        if not isinstance(self.backend, Unset):
            files.append(("backend", (None, str(self.backend).encode(), "text/plain")))

        if not isinstance(self.confidence_threshold, Unset):
            files.append(
                (
                    "confidence_threshold",
                    (None, str(self.confidence_threshold).encode(), "text/plain"),
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

        prompt = d.pop("prompt")

        _output_format = d.pop("output_format", UNSET)
        output_format: TextRequestOutputFormat | Unset
        if isinstance(_output_format, Unset):
            output_format = UNSET
        else:
            output_format = check_text_request_output_format(_output_format)

        model_id = d.pop("model_id", UNSET)

        geojson_crs = d.pop("geojson_crs", UNSET)

        _tiles = d.pop("tiles", UNSET)
        tiles: TextRequestTiles | Unset
        if isinstance(_tiles, Unset):
            tiles = UNSET
        else:
            tiles = check_text_request_tiles(_tiles)

        tile_size = d.pop("tile_size", UNSET)

        tile_overlap = d.pop("tile_overlap", UNSET)

        bands = d.pop("bands", UNSET)

        min_size = d.pop("min_size", UNSET)

        max_size = d.pop("max_size", UNSET)

        api_key = d.pop("api_key", UNSET)

        _backend = d.pop("backend", UNSET)
        backend: TextRequestBackend | Unset
        if isinstance(_backend, Unset):
            backend = UNSET
        else:
            backend = check_text_request_backend(_backend)

        confidence_threshold = d.pop("confidence_threshold", UNSET)

        nms_iou_threshold = d.pop("nms_iou_threshold", UNSET)

        text_request = cls(
            file=file,
            prompt=prompt,
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
            backend=backend,
            confidence_threshold=confidence_threshold,
            nms_iou_threshold=nms_iou_threshold,
        )

        text_request.additional_properties = d
        return text_request

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
