"""Prompts of `inference-server segment`: their options, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from inference_server.batch.search import Concept

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

Corners = tuple[float, float, float, float]


class ClassBox(NamedTuple):
    """A box of the command line.

    Attributes:
        category: class of its object; None for that of `--category`.
        corners: x0, y0, x1, y1 in pixels.
        label: 1 for an object or exemplar, 0 for a counter-example.
    """

    category: str | None
    corners: Corners
    label: int


class ClassWords(NamedTuple):
    """A class and the words that find its objects."""

    category: str
    words: tuple[str, ...]


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas, after a class and `=` if they may have one.

    Args:
        noun: name of the value in error messages, such as `box`.
        counts: accepted numbers of numbers.
        form: notation of the value in help and error messages, such as `x0,y0,x1,y1`.
    """

    def __init__(self, noun: str, counts: tuple[int, ...], form: str) -> None:
        self.name = form
        self._noun, self._counts = noun, counts

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, tuple[float, ...]]:
        category, is_classed, rest = str(value).rpartition("=")
        category = category.strip()
        if is_classed and (not self.name.startswith("[CLASS=]") or not category):
            self.fail(f"{value!r} is not a {self._noun}. Use {self.name} in pixels.", param, ctx)
        with suppress(ValueError):
            numbers = tuple(float(part) for part in rest.split(","))
            if len(numbers) in self._counts and all(abs(each) <= 1e9 for each in numbers):
                return category or None, numbers
        self.fail(f"{value!r} is not a {self._noun}. Use {self.name} in pixels.", param, ctx)


def checked_text(
    context: click.Context, parameter: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """Reject words and classes that are not valid UTF-8.

    Args:
        context: the command.
        parameter: its option.
        value: value or values of the option.

    Raises:
        BadParameter: a value contains bytes that are not UTF-8.
    """
    for each in (value,) if isinstance(value, str) else value:
        _check_text(each)
    return value


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python decodes such bytes of arguments as surrogates
        readable = text.encode("utf-8", "backslashreplace").decode()
        raise click.BadParameter(
            f"'{readable}' is not valid UTF-8. Set the terminal or script to UTF-8."
        ) from None


def _boxes(
    context: click.Context,
    parameter: click.Parameter,
    value: tuple[tuple[str | None, tuple[float, ...]], ...],
) -> tuple[ClassBox, ...]:
    boxes = []
    for category, (x0, y0, x1, y1, *label) in value:
        _check_text(category or "")
        if x0 >= x1 or y0 >= y1:
            raise click.BadParameter(
                f"{x0:g},{y0:g},{x1:g},{y1:g} is an empty box. Use x0,y0,x1,y1: the top left "
                "corner, then the bottom right corner."
            )
        _check_label(label, f"{x0:g},{y0:g},{x1:g},{y1:g}", "for an exemplar", "against one")
        boxes.append(ClassBox(category, (x0, y0, x1, y1), int(label[0]) if label else 1))
    return tuple(boxes)


def _points(
    context: click.Context,
    parameter: click.Parameter,
    value: tuple[tuple[str | None, tuple[float, ...]], ...],
) -> tuple[tuple[float, float, int], ...]:
    points = []
    for _, (x, y, *label) in value:
        _check_label(label, f"{x:g},{y:g}", "on the object", "outside")
        points.append((x, y, int(label[0]) if label else 1))
    return tuple(points)


def _check_label(label: Sequence[float], what: str, one: str, zero: str) -> None:
    if label and label[0] not in (0, 1):
        raise click.BadParameter(
            f"{what},{label[0]:g} has an invalid label. Use 1 {one} or 0 {zero}."
        )


def _labels(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[ClassWords, ...]:
    classes = []
    for each in value:
        _check_text(each)
        category, is_classed, words = each.partition("=")
        found = tuple(word.strip() for word in words.split(","))
        if not is_classed or not category.strip() or not all(found):
            raise click.BadParameter(
                f"{each!r} is not a class with its words. Use CLASS=WORDS[,WORDS...], such as "
                "car=car,van."
            )
        classes.append(ClassWords(category.strip(), found))
    return tuple(classes)


def prompt_options(command: CommandT) -> CommandT:
    """Add the options for prompts.

    Args:
        command: the function of a command.

    Returns:
        The same function with the options.
    """
    options = (
        click.option(
            "--text",
            "texts",
            multiple=True,
            metavar="WORDS",
            callback=checked_text,
            help="Find all instances of a concept; the words are its class. Repeatable.",
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="CLASS=WORDS[,WORDS...]",
            callback=_labels,
            help="Find all instances of several words, and give them one class, such as "
            "car=car,van. Repeatable.",
        ),
        click.option(
            "--example",
            "examples",
            multiple=True,
            type=_Numbers("box", (4, 5), "[CLASS=]x0,y0,x1,y1[,0|1]"),
            callback=_boxes,
            help="Find all objects similar to the one in a box (1, the default), and not to that "
            "in a counter-example (0). The examples of a class together are one concept. "
            "Repeatable.",
        ),
        click.option(
            "--box",
            "boxes",
            multiple=True,
            type=_Numbers("box", (4,), "[CLASS=]x0,y0,x1,y1"),
            callback=_boxes,
            help="Segment the object in a box. Repeatable.",
        ),
        click.option(
            "--point",
            "points",
            multiple=True,
            type=_Numbers("point", (2, 3), "x,y[,0|1]"),
            callback=_points,
            help="A point on the object (1, the default) or outside it (0). Points in a box refine "
            "its object; all others together select one object. Repeatable.",
        ),
        click.option("--automatic", is_flag=True, help="Segment everything in the image."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def concepts_of(
    texts: Sequence[str],
    labels: Sequence[ClassWords],
    examples: Sequence[ClassBox],
    category: str,
) -> tuple[Concept, ...]:
    """Return the concepts that the options describe.

    Args:
        texts: values of `--text`.
        labels: values of `--label`.
        examples: values of `--example`.
        category: class of examples without one.

    Raises:
        UsageError: the examples of a class are all counter-examples.
    """
    from inference_server.batch.search import Concept

    concepts = [Concept(text, text) for text in texts]
    concepts += [Concept(each.category, word) for each in labels for word in each.words]
    for name in dict.fromkeys(each.category or category for each in examples):
        own = [each for each in examples if (each.category or category) == name]
        if not any(each.label for each in own):
            raise click.UsageError(
                f"All examples of {name!r} are counter-examples (x0,y0,x1,y1,0). Add one of the "
                "objects to find."
            )
        boxes = tuple(each.corners for each in own)
        concepts.append(Concept(name, None, boxes, tuple(each.label for each in own)))
    return tuple(concepts)
