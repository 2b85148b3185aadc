"""Merge the classes of a later run into a COCO document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError

from inference_server.batch.outputs import OutputError

_SHOWN = 60
"""Characters of a bad value in an error message."""

_REASONS = {
    "string_type": "is not a string",
    "model_type": "is not an object",
}


def _identifier(value: object) -> int | str:
    """Accept what other entries can refer to."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("is not an integer")
    return value


_Id = Annotated[int | str, PlainValidator(_identifier)]


class _Entry(BaseModel):
    """An entry of a COCO document; fields that merging does not need may be anything."""

    model_config = ConfigDict(strict=True)


class _Numbered(_Entry):
    id: _Id


class _Category(_Numbered):
    name: str


class _Image(_Numbered):
    file_name: str


class _Annotation(_Entry):
    image_id: _Id
    category_id: _Id


class _Coco(_Entry):
    categories: list[_Category]
    images: list[_Image]
    annotations: list[_Annotation]


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

    def merged() -> Iterator[bytes]:
        new: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        for part in parts():
            content = orjson.loads(part)
            image = content["image"]
            if not content.get("continued"):
                new[image["file_name"]] = (image, [])
            for annotation in content["annotations"]:
                annotation["category_id"] += shift
                new[image["file_name"]][1].append(annotation)
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
        is_coco = all(
            isinstance(found[key], list) for key in ("images", "annotations", "categories")
        )
    except OSError as error:
        raise OutputError(f"Cannot read {document}: {error.strerror or error}.") from None
    except (ValueError, TypeError, KeyError):
        is_coco = False
    if not is_coco:
        raise OutputError(f"{document} is not a COCO document. Choose another -o.")
    if fault := _fault_of(found):
        raise OutputError(f"{document}: {fault}. Repair this entry, or choose another -o.")
    return dict(found)


def _fault_of(content: dict[str, Any]) -> str:
    """Return which entry cannot be merged, and why; empty if all can."""
    try:
        checked = _Coco.model_validate(content)
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
        name, number, *keys = error["loc"]
        where = ".".join([f"{name}[{number}]", *map(str, keys)])
        if error["type"] == "missing":
            return f"{where} is missing"
        cause = error.get("ctx", {}).get("error")
        reason = cause or _REASONS.get(error["type"], error["msg"])
        return f"{where} {reason}: {_short(error['input'])}"
    known: dict[str, set[int | str]] = {"categories": set(), "images": set()}
    numbered: dict[str, Sequence[_Numbered]] = {
        "categories": checked.categories,
        "images": checked.images,
    }
    for name, entries in numbered.items():
        for number, entry in enumerate(entries):
            if entry.id in known[name]:
                return f"{name}[{number}].id is the id of an earlier entry too: {_short(entry.id)}"
            known[name].add(entry.id)
    for number, each in enumerate(checked.annotations):
        for key, value, name in (
            ("category_id", each.category_id, "categories"),
            ("image_id", each.image_id, "images"),
        ):
            if value not in known[name]:
                return f"annotations[{number}].{key} is in none of the {name}: {_short(value)}"
    return ""


def _short(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
