"""Label configurations: which controls a project has, and what their labels mean."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from inference_server.errors import PromptError

OUTPUTS = ("brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels")
"""Types of controls that results can be given to, the preferred ones first."""

_CONTROLS = frozenset({*OUTPUTS, "keypointlabels", "textarea"})
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a control.

    Attributes:
        name: what results call it.
        words: concepts that it stands for.
    """

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Control:
    """A control tag of an image.

    Attributes:
        kind: name of the tag in lower case, which is the type of its results.
        name: the tag's name.
        image: name of the image's tag.
        labels: its labels, in order.
        attributes: all attributes of the tag.
    """

    kind: str
    name: str
    image: str
    labels: tuple[Label, ...]
    attributes: Mapping[str, str]

    @property
    def names(self) -> Sequence[str]:
        """Names of the labels."""
        return [label.name for label in self.labels]


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """A parsed label configuration.

    Attributes:
        images: column of the task's data by name of the image's tag.
        controls: the controls of these images, in order.
        digest: SHA-256 of the tags and attributes, in hexadecimal.
    """

    images: Mapping[str, str]
    controls: tuple[Control, ...]
    digest: str
    _by_name: dict[str, Control] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name: dict[str, Control] = {}
        for each in self.controls:
            by_name.setdefault(each.name, each)
        object.__setattr__(self, "_by_name", by_name)

    def control(self, name: str | None) -> Control | None:
        """Return the control of a name; None if there is none.

        Args:
            name: the control's name.
        """
        return None if name is None else self._by_name.get(name)

    def output(self, image: str | None = None, name: str | None = None) -> Control:
        """Return the control that gets the results.

        Args:
            image: name of the image's tag. Default: any image.
            name: the control's name. Default: the first one of the preferred type.

        Raises:
            PromptError: there is none.
        """
        found = [
            each
            for each in self.controls
            if each.kind in OUTPUTS and image in (None, each.image) and name in (None, each.name)
        ]
        if found:
            return min(found, key=lambda each: OUTPUTS.index(each.kind))
        if name is not None:
            raise PromptError(
                f"The label configuration has no control {name!r} for masks. Name one of "
                f"{', '.join(each.name for each in self.controls if each.kind in OUTPUTS)} as "
                "`output`, or leave it out."
            )
        raise PromptError(
            "The label configuration has no control for masks. Add BrushLabels, PolygonLabels or "
            'RectangleLabels whose toName is the name of an Image tag with value="$column".'
        )


@dataclass(slots=True)
class _Tag:
    kind: str
    attributes: Mapping[str, str]
    labels: list[Label] = field(default_factory=list)


class _Reader:
    """Collects controls, images and labels while expat reads.

    Args:
        max_tags: maximum number of tags.
        max_controls: maximum number of control tags.
    """

    def __init__(self, max_tags: int, max_controls: int) -> None:
        self.controls: list[_Tag] = []
        self.images: dict[str, str] = {}
        self.digest = hashlib.sha256()
        self._max_tags = max_tags
        self._max_controls = max_controls
        self._count = 0
        self._open: list[_Tag] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Handle the begin of a tag."""
        self._count += 1
        if self._count > self._max_tags:
            raise PromptError(
                f"The label configuration has more than {self._max_tags} tags. Remove some, or "
                "raise INFERENCE_LABEL_STUDIO_MAX_CONFIG_TAGS on the server."
            )
        if len(self._open) >= _MAX_DEPTH:
            raise PromptError(
                f"The label configuration is nested more than {_MAX_DEPTH} levels deep."
            )
        told = "\0".join([name, *(f"{key}={attributes[key]}" for key in sorted(attributes))])
        self.digest.update(f"{len(self._open)}\0{told}\1".encode())
        tag = _Tag(name.lower(), attributes)
        self._open.append(tag)
        if tag.kind in _CONTROLS:
            if len(self.controls) >= self._max_controls:
                raise PromptError(
                    f"The label configuration has more than {self._max_controls} controls. Remove "
                    "some, or raise INFERENCE_LABEL_STUDIO_MAX_CONTROLS on the server."
                )
            self.controls.append(tag)
        elif tag.kind == "image" and attributes.get("value", "").startswith("$"):
            self.images[attributes.get("name", "")] = attributes["value"][1:]
        elif tag.kind == "label" and attributes.get("value"):
            self._label(attributes)

    def end(self, name: str) -> None:
        """Handle the end of a tag."""
        del name
        self._open.pop()

    def doctype(self, *declared: object) -> None:
        """Refuse a document type, which may declare entities."""
        del declared
        raise PromptError("The label configuration has a DOCTYPE. Remove it.")

    def _label(self, attributes: Mapping[str, str]) -> None:
        owner = next((tag for tag in reversed(self._open) if tag.kind in _CONTROLS), None)
        if owner is None:
            return
        told = attributes.get("predicted_values", "").split(",")
        words = tuple(word.strip() for word in told if word.strip())
        name = attributes.get("alias") or attributes["value"]
        owner.labels.append(Label(name, words or (attributes["value"],)))


def read_config(text: str, *, max_bytes: int, max_tags: int, max_controls: int) -> LabelConfig:
    """Parse a label configuration.

    Args:
        text: the XML.
        max_bytes: maximum size in bytes.
        max_tags: maximum number of tags.
        max_controls: maximum number of control tags.

    Returns:
        The images, and the controls that refer to them.

    Raises:
        PromptError: it exceeds a limit, is not valid XML, has a DOCTYPE, or has no image.
    """
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > max_bytes:
        raise PromptError(
            f"The label configuration is larger than {max_bytes // 1024} KiB. Shorten it, or raise "
            "INFERENCE_LABEL_STUDIO_MAX_CONFIG_KB on the server."
        )
    reader = _Reader(max_tags, max_controls)
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise PromptError(f"The label configuration is not valid XML: {error}.") from None
    if not reader.images:
        raise PromptError(
            "The label configuration has no Image tag with a column. Add one such as "
            '<Image name="image" value="$image"/>.'
        )
    controls = []
    for tag in reader.controls:
        names = [each.strip() for each in tag.attributes.get("toName", "").split(",")]
        image = next((each for each in names if each in reader.images), None)
        if image is not None:
            name = tag.attributes.get("name", "")
            controls.append(Control(tag.kind, name, image, tuple(tag.labels), tag.attributes))
    return LabelConfig(reader.images, tuple(controls), reader.digest.hexdigest())
