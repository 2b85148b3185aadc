"""Output formats of rasters: written from their objects piece by piece, never as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from inference_server import geo
from inference_server.batch.formats import check_labels
from inference_server.masks import (
    Layer,
    coco_annotation,
    corner_and_size,
    encode_rle,
    id_type,
    label_strips,
    mask_polygons,
    mask_rings,
    png_pieces,
)
from inference_server.segmentation.postprocess import rank_of

if TYPE_CHECKING:
    from inference_server.batch.inputs import Source
    from inference_server.batch.search import PromptInfo
    from inference_server.segmentation.tiling import TiledObjects
    from inference_server.segmentation.types import Instance

_CHUNK_BYTES = 2**20
"""Bytes of annotations in a part of a COCO document, about."""

Content = Iterable[bytes] | Callable[[Path], None]
"""Content of a file: its pieces, or a function that writes the file at a path."""


@dataclass(frozen=True, slots=True)
class TiledPicture:
    """A raster with its results.

    Attributes:
        source: path and output name of the file.
        objects: the objects that were found, by their first row.
        reference: the raster's georeference; None if it has none.
        asked: the prompts; `Instance.prompt` is an index into them.
        crs: CRS of GeoJSON. Default: that of the raster.
    """

    source: Source
    objects: TiledObjects
    reference: geo.GeoReference | None
    asked: Sequence[PromptInfo]
    crs: str | None = None

    def category(self, instance: Instance) -> str:
        """Return the category of an object."""
        return self.asked[instance.prompt].category

    @property
    def described(self) -> dict[str, Any]:
        """The raster in JSON documents."""
        height, width = self.objects.size
        return {"file_name": self.source.shown, "width": width, "height": height}


def contents(
    picture: TiledPicture, form: str, categories: Sequence[str], epsilon: float
) -> dict[str, Content]:
    """Return the files of a raster, by the suffix that is added to its name.

    Args:
        picture: the raster and its results.
        form: output format, as of `plan.Request`, but not `coco`.
        categories: categories of the run.
        epsilon: maximum distance in pixels of a simplified polygon; 0 does not simplify.

    Raises:
        RequestError: the results do not fit into the format.
    """
    if form == "geojson":
        return {".geojson": _feature_pieces(picture, epsilon)}
    if form == "yolo":
        return {".txt": _yolo_pieces(picture, categories, epsilon)}
    if form == "png":
        return {".png": _label_pieces(picture), ".json": _described_labels(picture)}
    if form == "geotiff":
        return {".ids.tif": _label_file(picture), ".json": _described_labels(picture)}
    return {".json": _response_pieces(picture, form, epsilon)}


def coco_chunks(
    picture: TiledPicture, categories: Sequence[str], form: str, epsilon: float
) -> Iterator[bytes]:
    """Format a raster's results as parts of a COCO document, as `formats.coco_part` does.

    Args:
        picture: the raster and its results.
        categories: category names of the document; ids count them from 1.
        form: `rle` or `polygon`.
        epsilon: maximum distance in pixels of a simplified polygon; 0 does not simplify.

    Yields:
        JSON of a bounded size, at least once; all have the image and some annotations each, and all
        but the first say that they continue it.
    """
    image = orjson.dumps(picture.described)
    chunk: list[bytes] = []
    nbytes, begun = 0, False

    def made() -> bytes:
        continued = b',"continued":true' if begun else b""
        return b'{"image":' + image + continued + b',"annotations":[' + b",".join(chunk) + b"]}"

    for each in picture.objects:
        number = categories.index(picture.category(each)) + 1
        annotation = coco_annotation(each.mask, each.score, number, form, epsilon)
        chunk.append(_dumped(annotation))
        nbytes += len(chunk[-1])
        if nbytes >= _CHUNK_BYTES:
            yield made()
            chunk, nbytes, begun = [], 0, True
    if chunk or not begun:
        yield made()


def _dumped(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _listed(entries: Iterable[object]) -> Iterator[bytes]:
    between = b"\n"
    for entry in entries:
        yield between + _dumped(entry)
        between = b",\n"


def _feature_pieces(picture: TiledPicture, epsilon: float) -> Iterator[bytes]:
    reference: geo.MapCoordinates | None = picture.reference
    if picture.crs is not None:
        reference = geo.Reprojection.of(picture.reference, picture.crs)
    properties = (
        (each.mask, {"value": number, "score": each.score, "category": picture.category(each)})
        for number, each in enumerate(picture.objects, 1)
    )
    return geo.polygon_pieces(properties, reference, epsilon)


def _yolo_pieces(
    picture: TiledPicture, categories: Sequence[str], epsilon: float
) -> Iterator[bytes]:
    height, width = picture.objects.size
    for each in picture.objects:
        number = categories.index(picture.category(each))
        for outer, *_ in mask_rings(each.mask, epsilon):
            shares = (outer[:-1] / (width, height)).reshape(-1)
            yield (" ".join([str(number), *(f"{share:.6f}" for share in shares)]) + "\n").encode()


def _strips(picture: TiledPicture) -> tuple[Any, Iterator[Any]]:
    """Return the dtype of the ids, and the plane of ids row block by row block."""
    objects = picture.objects
    dtype = id_type(len(objects))

    def touching(rows: range) -> Iterator[Layer]:
        for number, each in objects.touching(rows):
            yield Layer(number + 1, each.mask, rank_of(each))

    return dtype, label_strips(touching, objects.size, dtype)


def _label_pieces(picture: TiledPicture) -> Iterator[bytes]:
    check_labels(len(picture.objects))
    dtype, strips = _strips(picture)
    return png_pieces(picture.objects.size, dtype, strips)


def _label_file(picture: TiledPicture) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        dtype, strips = _strips(picture)
        geo.write_label_strips(path, strips, picture.objects.size, dtype, picture.reference)

    return write


def _described_labels(picture: TiledPicture) -> Iterator[bytes]:
    yield b'{"image":' + _dumped(picture.described) + b',"objects":['
    yield from _listed(
        {
            "id": number,
            "category": picture.category(each),
            "score": each.score,
            "area": each.mask.area,
            "bbox": corner_and_size(each.mask),
        }
        for number, each in enumerate(picture.objects, 1)
    )
    yield b"]}\n"


def _response_pieces(picture: TiledPicture, form: str, epsilon: float) -> Iterator[bytes]:
    """Format the results as the server's JSON response; reads the objects once per prompt."""
    yield b'{"image":' + _dumped(picture.described) + b',"prompt_results":['
    for index, asked in enumerate(picture.asked):
        echo = {"prompt_index": index, "type": asked.kind, "num_boxes": asked.boxes}
        if asked.text is not None:
            echo["text"] = asked.text
        head = _dumped({"prompt_index": index, "echo": echo})
        yield (b",\n" if index else b"\n") + head[:-1] + b',"predictions":['
        yield from _listed(
            {
                "format": form,
                "confidence": each.score,
                "masks": encode_rle(each.mask)
                if form == "rle"
                else mask_polygons(each.mask, epsilon),
            }
            for each in picture.objects
            if each.prompt == index
        )
        yield b"]}"
    yield b"]}\n"
