"""Formats: what was found in an image, as the bytes of files or as a part of a larger one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import orjson
from affine import Affine
from numpy.typing import NDArray

from inference_server import __version__, geo
from inference_server.batch.search import Asked, Found
from inference_server.errors import RequestError
from inference_server.masks import Mask, clip, encode_pixels, encode_rle, label_plane, mask_polygons
from inference_server.masks.render import overlay
from inference_server.segmentation.types import Instance

if TYPE_CHECKING:
    from inference_server.batch.inputs import Source
    from inference_server.segmentation.types import StoredImage

_MOST_LABELS = 65_535
_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that was searched.

    Attributes:
        source: its file.
        image: the file's content.
        found: what was found.
        asked: the prompts, by `Instance.prompt`.
    """

    source: Source
    image: StoredImage
    found: Found
    asked: Sequence[Asked]

    def category(self, instance: Instance) -> str:
        """What an object is called."""
        return self.asked[instance.prompt].category


Render = Callable[[Picture], dict[str, bytes]]
"""The files of an image, by what is added to its name; for worker threads."""


def _json(value: object) -> bytes:
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(value, option=options)


def _described(picture: Picture) -> dict[str, Any]:
    height, width = picture.found.size
    return {"file_name": picture.source.shown, "width": width, "height": height}


def answer(picture: Picture, form: str) -> bytes:
    """What the server answers, with the image's name and size in place of its time.

    Args:
        picture: that was searched.
        form: `polygon` or `rle`.
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
                "masks": encode_rle(each.mask) if form == "rle" else mask_polygons(each.mask),
            }
            for each in picture.found.instances
            if each.prompt == index
        ]
        results.append({"prompt_index": index, "echo": echo, "predictions": predictions})
    return _json({"image": _described(picture), "prompt_results": results})


def feature_collection(picture: Picture) -> bytes:
    """GeoJSON: a polygon for each part of an object, in the CRS of the image's file.

    Where the file has none, coordinates are pixels. Pixels without data belong to no object.
    Objects keep their shapes where they overlap: each is traced on its own, in its box.
    """
    file = geo.GeoRaster(picture.image.data)
    reference = file.reference
    inside = None if file.valid is None else Mask.from_plane(file.valid)
    whole = geo.polygon_features(np.zeros((1, 1), np.uint8), reference)  # what says the CRS
    for number, each in enumerate(picture.found.instances, 1):
        mask = each.mask if inside is None else clip(each.mask, inside)
        if mask.is_empty:
            continue
        x0, y0, x1, y1 = mask.box
        move = Affine.translation(x0, y0)
        part = geo.GeoReference(
            None if reference is None else reference.crs,
            move if reference is None else reference.transform @ move,
            (y1 - y0, x1 - x0),
        )
        properties = {"value": number, "score": each.score, "category": picture.category(each)}
        for feature in geo.polygon_features(mask.crop.view(np.uint8), part)["features"]:
            whole["features"].append({**feature, "properties": properties})
    return _json(whole)


def labels(picture: Picture) -> dict[str, bytes]:
    """A PNG of ids, and JSON that tells what each id is.

    Id i is object i of the list, counted from 1, and 0 the background; in 8 bits, or in 16 for more
    than 255 objects. Where objects overlap, the one with the highest score is on top.

    Raises:
        RequestError: there are more objects than 16 bits can tell apart.
    """
    instances = picture.found.instances
    if len(instances) > _MOST_LABELS:
        raise RequestError(
            f"There are {len(instances)} objects, and a PNG tells {_MOST_LABELS} apart. Raise "
            "--threshold, or choose another --format."
        )
    order = sorted(range(len(instances)), key=lambda i: instances[i].score)
    plane = label_plane([instances[i].mask for i in order], picture.found.size)
    ids = np.array([0, *(i + 1 for i in order)], plane.dtype)
    objects = [
        {
            "id": number,
            "category": picture.category(each),
            "score": each.score,
            "area": each.mask.area,
            "bbox": _corner_and_size(each.mask),
        }
        for number, each in enumerate(instances, 1)
    ]
    return {
        ".png": encode_pixels(ids[plane]),
        ".json": _json({"image": _described(picture), "objects": objects}),
    }


def _corner_and_size(mask: Mask) -> list[int]:
    """x, y, width, height."""
    x0, y0, x1, y1 = mask.box
    return [x0, y0, x1 - x0, y1 - y0]


def drawn(pixels: NDArray[np.uint8], picture: Picture) -> bytes:
    """A JPEG of the image, `uint8[H, W, 3]` RGB, with the masks over it.

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
        raise RequestError("The image is too large for an overlay, which is JPEG.")
    return data.tobytes()


def coco_part(picture: Picture, categories: Sequence[str], form: str) -> bytes:
    """An image of a COCO document, without the numbers that it gets in the whole.

    Args:
        picture: that was searched.
        categories: of the document, in order.
        form: of segmentations: `rle`, or `polygon`, where a mask without a polygon (in COCO one of
            three points or more) is RLE all the same.
    """
    annotations = [
        {
            "category_id": categories.index(picture.category(each)) + 1,
            "segmentation": _segmentation(each.mask, form),
            "area": each.mask.area,
            "bbox": _corner_and_size(each.mask),
            "iscrowd": 0,
            "score": each.score,
        }
        for each in picture.found.instances
    ]
    return _json({"image": _described(picture), "annotations": annotations})


def _segmentation(mask: Mask, form: str) -> object:
    if form == "polygon":
        parts = [part.reshape(-1) for part in mask_polygons(mask) if len(part) >= 3]
        if parts:
            return parts
    return encode_rle(mask)


def coco_document(
    parts: Callable[[], Iterable[bytes]], categories: Sequence[str], models: Sequence[str]
) -> Iterator[bytes]:
    """A COCO document in pieces, so that it need not fit into memory.

    Args:
        parts: tells those of all images in their order, as `coco_part` made them; called twice.
        categories: names, in order.
        models: that found the objects.
    """
    info = {
        "description": f"Found by {', '.join(models)}",
        "version": __version__,
        "contributor": "inference-server",
    }
    named = [
        {"id": number, "name": name, "supercategory": ""}
        for number, name in enumerate(categories, 1)
    ]
    yield b'{"info":' + orjson.dumps(info) + b',"licenses":[],'
    yield b'"categories":' + orjson.dumps(named) + b',\n"images":['
    between = b"\n"
    for number, part in enumerate(parts(), 1):
        yield between + orjson.dumps({"id": number, **orjson.loads(part)["image"]})
        between = b",\n"
    yield b'],\n"annotations":['
    between, count = b"\n", 0
    for number, part in enumerate(parts(), 1):
        for annotation in orjson.loads(part)["annotations"]:
            count += 1
            yield between + orjson.dumps({"id": count, "image_id": number, **annotation})
            between = b",\n"
    yield b"]}\n"
