"""Output formats: the objects of an image as the bytes of files, or as part of a document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import orjson
from numpy.typing import NDArray

from inference_server import __version__, geo
from inference_server.batch.search import PromptInfo, SearchResult
from inference_server.errors import RequestError
from inference_server.masks import (
    Mask,
    clip,
    coco_annotation,
    coco_pieces,
    corner_and_size,
    encode_pixels,
    encode_rle,
    label_plane,
    mask_polygons,
    mask_rings,
)
from inference_server.masks.render import overlay
from inference_server.segmentation.postprocess import bottom_to_top
from inference_server.segmentation.types import Instance

if TYPE_CHECKING:
    from inference_server.batch.inputs import Source
    from inference_server.segmentation.types import StoredImage

_MOST_LABELS = 65_535
_JPEG_QUALITY = 90
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image with its results.

    Attributes:
        source: path and output name of the image file.
        image: content of the file.
        found: the objects that were found.
        asked: the prompts; `Instance.prompt` is an index into them.
        bands: numbers of the bands that were shown. Default: those that the file says.
        crs: CRS of GeoJSON. Default: that of the image.
    """

    source: Source
    image: StoredImage
    found: SearchResult
    asked: Sequence[PromptInfo]
    bands: Sequence[int] | None = None
    crs: str | None = None

    def category(self, instance: Instance) -> str:
        """Return the category of an object."""
        return self.asked[instance.prompt].category


def _json(value: object) -> bytes:
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(value, option=options)


def _described(picture: Picture) -> dict[str, Any]:
    height, width = picture.found.size
    return {"file_name": picture.source.shown, "width": width, "height": height}


def response_json(picture: Picture, form: str, epsilon: float = 0.0) -> bytes:
    """Format an image's results as the server's JSON response, with `image` instead of `time`.

    Args:
        picture: the image and its results.
        form: `polygon` or `rle`.
        epsilon: maximum distance in pixels of a simplified polygon. Default: 0, not simplified.

    Returns:
        JSON.
    """
    results = []
    for index, asked in enumerate(picture.asked):
        echo = {"prompt_index": index, "type": asked.kind, "num_boxes": asked.boxes}
        if asked.text is not None:
            echo["text"] = asked.text
        predictions = [
            {
                "format": form,
                "confidence": each.score,
                "masks": encode_rle(each.mask)
                if form == "rle"
                else mask_polygons(each.mask, epsilon),
            }
            for each in picture.found.instances
            if each.prompt == index
        ]
        results.append({"prompt_index": index, "echo": echo, "predictions": predictions})
    return _json({"image": _described(picture), "prompt_results": results})


def feature_collection(picture: Picture, epsilon: float = 0.0) -> bytes:
    """Format an image's results as GeoJSON: one polygon per part of an object.

    Coordinates are in the CRS of the image file, or in pixels without a CRS. Nodata pixels belong
    to no object. Each object is traced separately, so overlapping objects keep their full
    shapes.

    Args:
        picture: the image and its results.
        epsilon: maximum distance in pixels of a simplified polygon. Default: 0, not simplified.

    Returns:
        JSON.
    """
    file = geo.GeoRaster(picture.image.data, bands=picture.bands)
    reference: geo.MapCoordinates | None = file.reference
    if picture.crs is not None:
        reference = geo.Reprojection.of(file.reference, picture.crs)
    inside = None if file.valid is None else Mask.from_plane(file.valid)
    instances = picture.found.instances
    return _json(
        geo.polygon_features(
            [each.mask if inside is None else clip(each.mask, inside) for each in instances],
            reference,
            [
                {"value": number, "score": each.score, "category": picture.category(each)}
                for number, each in enumerate(instances, 1)
            ],
            epsilon,
        )
    )


def yolo_lines(picture: Picture, categories: Sequence[str], epsilon: float = 0.0) -> bytes:
    """Format an image's results as YOLO segmentation labels.

    A line for each part of an object: the number of its class, from 0, and the vertices of its
    outline as x and y, as shares of width and height. Holes are left out. An image without objects
    has an empty file.

    Args:
        picture: the image and its results.
        categories: the classes.
        epsilon: maximum distance in pixels of a simplified polygon. Default: 0, not simplified.

    Returns:
        The text file.
    """
    height, width = picture.found.size
    lines = []
    for each in picture.found.instances:
        number = categories.index(picture.category(each))
        for outer, *_ in mask_rings(each.mask, epsilon):
            shares = (outer[:-1] / (width, height)).reshape(-1)
            lines.append(" ".join([str(number), *(f"{share:.6f}" for share in shares)]) + "\n")
    return "".join(lines).encode()


def yolo_document(categories: Sequence[str]) -> Iterator[bytes]:
    """Return the classes as `data.yaml` of a YOLO dataset, in pieces.

    Args:
        categories: the classes, which count from 0.
    """
    yield b"# Put the images into images/, beside labels/.\npath: .\ntrain: images\nval: images\n"
    yield b"names:\n"
    for number, name in enumerate(categories):
        yield f"  {number}: {_yaml_string(name)}\n".encode()


def _yaml_string(text: str) -> str:
    """Return a string that is both JSON and YAML.

    JSON may contain characters that YAML rejects or takes for line breaks, so they are escaped.
    """
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", orjson.dumps(text).decode())


def label_files(picture: Picture, form: str = "png") -> dict[str, bytes]:
    """Format an image's results as a raster of object ids and JSON that describes each id.

    Ids count the objects from 1; 0 is the background. The raster has 8 bits per pixel, 16 for more
    than 255 objects, or 32 in a GeoTIFF of more than 65,535. Where objects overlap, the one with
    the highest score is on top.

    Args:
        picture: the image and its results.
        form: `png` or `geotiff`. Default: `png`.

    Returns:
        The files by suffix.

    Raises:
        RequestError: there are more objects than a PNG can number.
    """
    instances = picture.found.instances
    if form == "png":
        check_labels(len(instances))
    plane = label_plane(
        [each.mask for each in instances], picture.found.size, order=bottom_to_top(instances)
    )
    objects = [
        {
            "id": number,
            "category": picture.category(each),
            "score": each.score,
            "area": each.mask.area,
            "bbox": corner_and_size(each.mask),
        }
        for number, each in enumerate(instances, 1)
    ]
    described = _json({"image": _described(picture), "objects": objects})
    if form == "png":
        return {".png": encode_pixels(plane), ".json": described}
    file = geo.write_labels(plane, geo.GeoRaster(picture.image.data).reference)
    return {".ids.tif": file, ".json": described}


def check_labels(count: int) -> None:
    """Check that a PNG can number so many objects.

    Args:
        count: number of objects.

    Raises:
        RequestError: there are too many.
    """
    if count > _MOST_LABELS:
        raise RequestError(
            f"The image has {count} objects, but a PNG can hold {_MOST_LABELS}. Raise --threshold, "
            "or choose another --format, such as geotiff."
        )


def overlay_jpeg(pixels: NDArray[np.uint8], picture: Picture) -> bytes:
    """Draw the masks on an image and encode it as JPEG.

    Args:
        pixels: the image, `uint8[H, W, 3]` RGB.
        picture: the image's results.

    Returns:
        The JPEG file.

    Raises:
        RequestError: the image is too large for JPEG.
    """
    instances = picture.found.instances
    named = [f"{picture.category(each)} {each.score:.2f}" for each in instances]
    if instances:
        pixels = overlay(pixels, [each.mask for each in instances], labels=named)
    try:
        done, data = cv2.imencode(
            ".jpg",
            cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
        )
    except cv2.error:
        done = False
    if not done:
        height, width = pixels.shape[:2]
        raise RequestError(
            f"The image of {width} x {height} pixels is too large for an overlay, which is JPEG. "
            "Run without --overlay."
        )
    return data.tobytes()


def coco_part(
    picture: Picture, categories: Sequence[str], form: str, epsilon: float = 0.0
) -> bytes:
    """Format an image's results as part of a COCO document, without image and annotation ids.

    Args:
        picture: the image and its results.
        categories: category names of the document; ids count them from 1.
        form: `rle` or `polygon`. A mask without a polygon of at least three points, which COCO
            requires, is written as RLE in either case.
        epsilon: maximum distance in pixels of a simplified polygon. Default: 0, not simplified.

    Returns:
        JSON.
    """
    annotations = [
        coco_annotation(
            each.mask,
            each.score,
            categories.index(picture.category(each)) + 1,
            form,
            epsilon,
        )
        for each in picture.found.instances
    ]
    return _json({"image": _described(picture), "annotations": annotations})


def coco_document(
    parts: Callable[[], Iterable[bytes]], categories: Sequence[str], models: Sequence[str]
) -> Iterator[bytes]:
    """Join parts to a COCO document, in pieces so that it need not fit into memory.

    Args:
        parts: returns the parts of all images in order, as made by `coco_part` and, for rasters, by
            `coco_chunks`; called twice.
        categories: category names; ids count them from 1.
        models: labels of the models, for the description.

    Returns:
        Pieces of the JSON document.
    """
    info = {
        "description": f"Found by {', '.join(models)}",
        "version": __version__,
        "contributor": "inference-server",
    }
    return coco_pieces(
        info,
        categories,
        ({"id": number, **part["image"]} for number, part in _numbered(parts()) if _begins(part)),
        (
            {"image_id": number, **annotation}
            for number, part in _numbered(parts())
            for annotation in part["annotations"]
        ),
    )


def _numbered(parts: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Parse parts, and count their images from 1."""
    number = 0
    for part in parts:
        found = orjson.loads(part)
        number += _begins(found)
        yield number, found


def _begins(part: dict[str, Any]) -> bool:
    """Whether a part is the first one of its image."""
    return not part.get("continued")
