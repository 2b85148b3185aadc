"""Segmentation results in samgeo's five output formats; rendered in a worker thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from inference_server.geo import (
    Detection,
    GeoRaster,
    GeoReference,
    MapCoordinates,
    Reprojection,
    detection_features,
    detection_list,
    mask_detections,
    polygon_features,
    write_labels,
)
from inference_server.masks import INSIDE, LabelPlane, Mask, clip, encode_pixels, label_plane
from inference_server.segmentation.postprocess import bottom_to_top
from inference_server.segmentation.types import Instance, SegmentationResult

RASTERS = MappingProxyType(
    {"geotiff": ("image/tiff", "mask.tif"), "png": ("image/png", "mask.png")}
)
"""Media type and file name of each format that is a raster."""

GEOJSON_FORMATS = frozenset({"geojson", "detections"})
"""Output formats with map coordinates."""


def media_type(output_format: str) -> str:
    """Return the media type of a response in an output format."""
    return RASTERS[output_format][0] if output_format in RASTERS else "application/json"


def headers(output_format: str) -> Mapping[str, str]:
    """Return the additional headers of a response in an output format."""
    if output_format not in RASTERS:
        return {}
    return {"content-disposition": f'attachment; filename="{RASTERS[output_format][1]}"'}


def map_coordinates(reference: GeoReference | None, crs: str | None) -> MapCoordinates | None:
    """Return the coordinates of a response in GeoJSON; None for pixels.

    Args:
        reference: the image's georeference; None if it has none.
        crs: name of their CRS; None for that of the image.

    Raises:
        RequestError: the CRS is unknown, or the image has none.
    """
    return reference if crs is None else Reprojection.of(reference, crs)


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How objects are rendered.

    Attributes:
        unique: whether each object has its own id in the raster; default True.
        foreground: whether the background is 0; see `label_plane`. Default True.
        by_area: whether ids ascend by area and smaller objects lie on top; otherwise objects of a
            higher score lie on top. Default False.
        own_boxes: whether boxes are those that the model predicts, with scores; otherwise they are
            the extents of the masks, with ids. Default False.
    """

    unique: bool = True
    foreground: bool = True
    by_area: bool = False
    own_boxes: bool = False


@dataclass(frozen=True, slots=True)
class SamgeoObjects:
    """The objects of an image, in the order of their ids, which begin at 1.

    Attributes:
        size: (height, width) of the image in pixels.
        instances: the objects.
        reference: the image's georeference; None if it has none.
        options: how they are rendered.
        coordinates: of GeoJSON; None for pixels.
    """

    size: tuple[int, int]
    instances: list[Instance]
    reference: GeoReference | None
    options: RenderOptions
    coordinates: MapCoordinates | None = None

    @classmethod
    def of(
        cls,
        result: SegmentationResult,
        file: GeoRaster,
        options: RenderOptions,
        *,
        min_size: int,
        max_size: int | None,
        crs: str | None = None,
    ) -> SamgeoObjects:
        """Clip the instances to the image's valid pixels, and filter them by area.

        Args:
            result: the instances found.
            file: the image file.
            options: how the objects are rendered.
            min_size: minimum area of an object, in pixels; at least one pixel is required.
            max_size: maximum area of an object, in pixels; None, 0 or less for no limit.
            crs: name of the CRS of coordinates in GeoJSON. Default: that of the image.

        Raises:
            RequestError: the CRS is unknown, or the image has none.
        """
        coordinates = map_coordinates(file.reference, crs)
        instances = result.instances
        if file.valid is not None:
            valid = Mask.from_plane(file.valid)
            instances = [replace(each, mask=clip(each.mask, valid)) for each in instances]
        limit = max_size if max_size is not None and max_size > 0 else np.inf
        kept = [each for each in instances if max(min_size, 1) <= each.mask.area <= limit]
        if options.by_area:
            kept.sort(key=lambda instance: instance.mask.area)
        return cls(result.image.embedding.size, kept, file.reference, options, coordinates)

    def render(self, output_format: str) -> object:
        """Render the objects.

        Polygons and boxes are those of whole objects. In rasters, overlapping objects hide each
        other.

        Args:
            output_format: `geotiff`, `png`, `geojson`, `json` or `detections`.

        Returns:
            The file of a raster format, or else a JSON value.
        """
        renderers: dict[str, Callable[[], object]] = {
            "geotiff": lambda: write_labels(self._plane(), self.reference),
            "png": lambda: encode_pixels(self._plane()),
            "geojson": self._polygons,
            "json": lambda: detection_list(self._detections(), self.size),
            "detections": lambda: detection_features(self._detections(), self.coordinates),
        }
        return renderers[output_format]()

    def _plane(self) -> LabelPlane:
        options = self.options
        return label_plane(
            [each.mask for each in self.instances],
            self.size,
            order=bottom_to_top(self.instances, by_area=options.by_area),
            unique=options.unique,
            foreground=options.foreground,
        )

    def _masks(self) -> list[Mask]:
        """The masks of the objects; if ids are not unique, the mask of all pixels of the raster."""
        if self.options.unique:
            return [each.mask for each in self.instances]
        whole = Mask.from_plane(self._plane() != 0)
        return [] if whole.is_empty else [whole]

    def _polygons(self) -> dict[str, Any]:
        properties = (
            [{"value": index, "score": each.score} for index, each in enumerate(self.instances, 1)]
            if self.options.unique
            else [{"value": INSIDE}]
        )
        return polygon_features(self._masks(), self.coordinates, properties)

    def _detections(self) -> list[Detection]:
        if self.options.own_boxes:
            return [
                Detection(index, each.box or each.mask.box, score=each.score)
                for index, each in enumerate(self.instances, 1)
            ]
        masks = self._masks()
        values = range(1, len(masks) + 1) if self.options.unique else [INSIDE] * len(masks)
        return mask_detections(masks, values)
