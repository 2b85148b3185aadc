"""Merge the classes of a later run into a COCO document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from inference_server.batch.outputs import OutputError


def categories_of(document: Path) -> list[str]:
    """Return the class names of a COCO document.

    Args:
        document: the file.

    Raises:
        OutputError: it is not a COCO document.
    """
    return [str(each["name"]) for each in _read(document)["categories"]]


def check_classes(document: Path, categories: Sequence[str]) -> None:
    """Check that a document has none of the classes that a run would add.

    Args:
        document: a COCO document.
        categories: classes of the run.

    Raises:
        OutputError: the document has one of them, or is not a COCO document.
    """
    there = set(categories_of(document))
    known = [name for name in categories if name in there]
    if known:
        raise OutputError(
            f"{document} already has the class {known[0]!r}; --merge adds new classes. Name it "
            "otherwise with --label or --category, or choose another -o."
        )


def merged_parts(
    base: Path, parts: Callable[[], Iterable[bytes]]
) -> tuple[list[str], Callable[[], Iterator[bytes]]]:
    """Merge a document with the parts of a run.

    Args:
        base: the earlier COCO document; it is read into memory.
        parts: returns the parts of all images of the run, as `coco_part` makes them with the
            categories of the run alone.

    Returns:
        The classes of the base, and a function that returns the parts of the merged document:
        first the images of the base, each with what the run has found in it.
    """
    document = _read(base)
    names = {each["id"]: number for number, each in enumerate(document["categories"], 1)}
    shift = len(names)
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for annotation in document["annotations"]:
        own = {key: annotation[key] for key in annotation if key not in ("id", "image_id")}
        own["category_id"] = names[annotation["category_id"]]
        of_image.setdefault(annotation["image_id"], []).append(own)

    def shifted(part: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found = orjson.loads(part)
        for annotation in found["annotations"]:
            annotation["category_id"] += shift
        return found["image"], found["annotations"]

    def merged() -> Iterator[bytes]:
        new = {image["file_name"]: (image, found) for image, found in map(shifted, parts())}
        for each in document["images"]:
            image = {key: each[key] for key in each if key != "id"}
            _, found = new.pop(each["file_name"], (image, []))
            yield orjson.dumps(
                {"image": image, "annotations": [*of_image.get(each["id"], []), *found]}
            )
        for image, found in new.values():
            yield orjson.dumps({"image": image, "annotations": found})

    return [str(each["name"]) for each in document["categories"]], merged


def _read(document: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(document.read_bytes())
        if all(isinstance(found[key], list) for key in ("images", "annotations", "categories")):
            return dict(found)
    except OSError as error:
        raise OutputError(f"Cannot read {document}: {error.strerror or error}.") from None
    except (ValueError, TypeError, KeyError):
        pass
    raise OutputError(f"{document} is not a COCO document. Choose another -o.")
