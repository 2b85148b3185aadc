"""What a samgeo request found, and the five forms in which it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from inference_server.geo import (
    Detection,
    GeoReference,
    detection_list,
    detections,
    plane_detections,
    polygons,
    write_labels,
)
from inference_server.images.raster import valid_pixels
from inference_server.masks import LabelPlane, Mask, clip, encode_pixels, label_plane
from inference_server.segmentation.types import Instance, SegmentationResult

Form = tuple[Callable[[], object], str, Mapping[str, str]]
"""What makes the body, its media type, and the headers that go with it."""

_RASTERS = MappingProxyType(
    {"geotiff": ("image/tiff", "mask.tif"), "png": ("image/png", "mask.png")}
)


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects in the order of their ids, which are counted from 1.

    Attributes:
        size: (height, width) of the image in pixels.
        instances: the objects.
        reference: where on the map the image is; None if it says nothing of it.
        by_area: the largest object has the highest id, and smaller ones lie on top of it;
            otherwise those of a higher id do.
    """

    size: tuple[int, int]
    instances: list[Instance]
    reference: GeoReference | None
    by_area: bool

    @classmethod
    def of(
        cls,
        result: SegmentationResult,
        data: bytes,
        *,
        least: int,
        most: int | None,
        by_area: bool,
    ) -> Objects:
        """Sort out what was found; for worker threads.

        Args:
            result: what was found.
            data: the image's file. Where it says that it has no data, there is no object.
            least: pixels of an object.
            most: pixels of an object; None, 0 or less is no limit.
            by_area: see `Objects`.
        """
        size = result.image.embedding.size
        valid = valid_pixels(data)
        instances = result.instances
        if valid is not None:
            inside = Mask.from_plane(valid)
            instances = [replace(each, mask=clip(each.mask, inside)) for each in instances]
        kept = [
            each
            for each in instances
            if each.mask.area >= max(least, 1) and (not most or most < 0 or each.mask.area <= most)
        ]
        if by_area:
            kept.sort(key=lambda instance: instance.mask.area)
        return cls(size, kept, GeoReference.read(data), by_area)

    def in_form(self, form: str, *, unique: bool, foreground: bool, in_words: bool) -> Form:
        """The answer.

        Args:
            form: `output_format`.
            unique: an id for each object.
            foreground: see `label_plane`.
            in_words: boxes are those of the objects themselves, with their scores; otherwise those
                of what the raster shows of them, with its values.
        """
        if form in _RASTERS:
            media_type, name = _RASTERS[form]

            def raster() -> bytes:
                plane = self._plane(unique, foreground)
                if form == "png":
                    return encode_pixels(plane)
                return write_labels(plane, self.reference)

            return raster, media_type, {"content-disposition": f'attachment; filename="{name}"'}

        def boxes() -> list[Detection]:
            if in_words:
                return self._boxes()
            return plane_detections(self._plane(unique, foreground))

        bodies: dict[str, Callable[[], object]] = {
            "geojson": lambda: polygons(
                self._plane(unique, foreground), self.reference, self._scores(unique)
            ),
            "json": lambda: detection_list(boxes(), self.size),
            "detections": lambda: detections(boxes(), self.reference),
        }
        return bodies[form], "application/json", {}

    def _plane(self, unique: bool, foreground: bool) -> LabelPlane:
        masks = [each.mask for each in self.instances]
        if not (unique and self.by_area):
            return label_plane(masks, self.size, unique=unique, foreground=foreground)
        plane = label_plane(masks[::-1], self.size)
        highest_first = np.arange(len(masks) + 1, 0, -1, dtype=plane.dtype)
        highest_first[0] = 0
        return highest_first[plane]

    def _scores(self, unique: bool) -> dict[int, float]:
        if not unique:
            return {}
        return {index: each.score for index, each in enumerate(self.instances, 1)}

    def _boxes(self) -> list[Detection]:
        return [
            Detection(index, each.box or each.mask.box, score=each.score)
            for index, each in enumerate(self.instances, 1)
        ]
