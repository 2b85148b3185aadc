"""Objects of a raster in samgeo's five output formats, written without holding them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inference_server.api.file_response import within, write_pieces
from inference_server.api.samgeo.results import RASTERS, RenderOptions, map_coordinates
from inference_server.errors import RequestError
from inference_server.geo import (
    Detection,
    GeoReference,
    MapCoordinates,
    detection_list_pieces,
    detection_pieces,
    polygon_pieces,
    write_label_strips,
)
from inference_server.masks import Layer, id_type, label_strips, png_pieces
from inference_server.segmentation.postprocess import rank_of
from inference_server.segmentation.types import Instance

_MOST_IN_PNG = 65_535


class Objects(Protocol):
    """The objects of a raster, numbered from 0; see `TiledObjects`."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the raster in pixels."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Instance]: ...

    def touching(self, rows: range) -> Iterator[tuple[int, Instance]]:
        """The objects whose boxes have any of some rows, with their numbers."""
        ...


class FewObjects:
    """A few objects in memory, numbered in their order.

    Args:
        size: (height, width) of the raster in pixels.
        instances: the objects.
    """

    def __init__(self, size: tuple[int, int], instances: list[Instance]) -> None:
        self.size = size
        self._instances = [each for each in instances if not each.mask.is_empty]

    def __len__(self) -> int:
        return len(self._instances)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._instances)

    def touching(self, rows: range) -> Iterator[tuple[int, Instance]]:
        """The objects whose boxes have any of some rows, with their numbers."""
        for number, instance in enumerate(self._instances):
            _, first, _, stop = instance.mask.box
            if first < rows.stop and stop > rows.start:
                yield number, instance


def check_output(output_format: str, options: RenderOptions) -> None:
    """Check before the expensive work that the output needs no plane of the raster.

    Args:
        output_format: `geotiff`, `png`, `geojson`, `json` or `detections`.
        options: how the objects are rendered.

    Raises:
        RequestError: it does.
    """
    if not options.unique and output_format not in RASTERS:
        raise RequestError(
            f"A raster that is segmented by windows has no {output_format} with unique=false, "
            "which is the outline of all objects together. Send unique=true, or "
            "output_format=geotiff."
        )


@dataclass(frozen=True, slots=True)
class RasterObjects:
    """The objects of a raster, with their ids, which begin at 1.

    Attributes:
        objects: the objects.
        ids: the id of each, by its number; 0 for those that are left out. `int64[n]`.
        reference: the raster's georeference; None if it has none.
        options: how they are rendered.
        coordinates: of GeoJSON; None for pixels.
    """

    objects: Objects
    ids: NDArray[np.int64]
    reference: GeoReference | None
    options: RenderOptions
    coordinates: MapCoordinates | None

    @classmethod
    def of(
        cls,
        objects: Objects,
        reference: GeoReference | None,
        options: RenderOptions,
        *,
        min_size: int,
        max_size: int | None,
        crs: str | None,
    ) -> RasterObjects:
        """Filter the objects by area, and number those that remain.

        Args:
            objects: the objects, none of them empty.
            reference: the raster's georeference; None if it has none.
            options: how the objects are rendered.
            min_size: minimum area of an object, in pixels.
            max_size: maximum area of an object, in pixels; None, 0 or less for no limit.
            crs: name of the CRS of coordinates in GeoJSON; None for that of the raster.
        """
        limit = max_size if max_size is not None and max_size > 0 else np.inf
        kept: NDArray[np.bool_] = np.ones(len(objects), np.bool_)
        if min_size > 1 or limit < np.inf:
            areas = (each.mask.area for each in objects)
            kept[:] = [min_size <= area <= limit for area in areas]
        ids = np.where(kept, kept.cumsum(), 0)
        return cls(objects, ids, reference, options, map_coordinates(reference, crs))

    def __len__(self) -> int:
        return int(self.ids.max(initial=0))

    def write(self, path: Path, output_format: str, max_mb: int, *, compress: bool) -> None:
        """Write the objects to a file.

        Args:
            path: the file.
            output_format: `geotiff`, `png`, `geojson`, `json` or `detections`.
            max_mb: maximum size of the file in MiB.
            compress: whether to compress JSON with gzip.

        Raises:
            ImageTooLargeError: the file is too large.
            RequestError: there are too many objects for the format.
            StorageError: the disk is full.
        """
        if output_format == "geotiff":
            strips = within(path, self._strips(), max_mb)
            write_label_strips(path, strips, self.objects.size, self._type, self.reference)
            return
        pieces: dict[str, Callable[[], Iterator[bytes]]] = {
            "png": self._png,
            "geojson": self._polygons,
            "json": lambda: detection_list_pieces(self._detections(), self.objects.size),
            "detections": lambda: detection_pieces(self._detections(), self.coordinates),
        }
        write_pieces(
            path,
            pieces[output_format](),
            max_mb,
            compress=compress and output_format not in RASTERS,
        )

    @property
    def _type(self) -> type[np.uint8] | type[np.uint16] | type[np.uint32]:
        return id_type(len(self)) if self.options.unique else np.uint8

    def _strips(self) -> Iterator[NDArray[np.uint8 | np.uint16 | np.uint32]]:
        options = self.options

        def touching(rows: range) -> Iterator[Layer]:
            for number, instance in self.objects.touching(rows):
                if identity := int(self.ids[number]):
                    rank = rank_of(instance, by_area=options.by_area)
                    yield Layer(identity, instance.mask, rank)

        return label_strips(
            touching,
            self.objects.size,
            self._type,
            unique=options.unique,
            foreground=options.foreground,
        )

    def _png(self) -> Iterator[bytes]:
        kind = self._type
        if kind == np.uint32:
            raise RequestError(
                f"The raster has {len(self)} objects, but a PNG can hold {_MOST_IN_PNG}. Send "
                "output_format=geotiff."
            )
        return png_pieces(self.objects.size, kind, self._strips())

    def _numbered(self) -> Iterator[tuple[int, Instance]]:
        for number, instance in enumerate(self.objects):
            if identity := int(self.ids[number]):
                yield identity, instance

    def _polygons(self) -> Iterator[bytes]:
        found = (
            (each.mask, {"value": identity, "score": each.score})
            for identity, each in self._numbered()
        )
        return polygon_pieces(found, self.coordinates)

    def _detections(self) -> Iterator[Detection]:
        for identity, each in self._numbered():
            x0, y0, x1, y1 = each.mask.box
            if self.options.own_boxes:
                yield Detection(identity, each.box or each.mask.box, score=each.score)
            else:
                yield Detection(identity, (x0, y0, x1 - 1, y1 - 1), identity)
