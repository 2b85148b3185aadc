"""Vocabulary of the demo SAM 3: its tokenizer, and phrases for training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from inference_server.demo.shapes import COLORS, SHAPES

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
COLOR_NAMES = tuple(COLORS)

# fmt: off
_FILLERS = [
    "a", "an", "the", "all", "every", "any", "each", "of", "in", "this", "that", "is", "are",
    "one", "ones", "with", "which", "and",
]
_EVERYTHING = ("shape", "shapes", "object", "objects", "everything", "all shapes", "things")
# Words that match nothing in any scene; the model learns to predict no object for them.
_STRANGERS = [
    "dog", "cat", "car", "person", "tree", "house", "bird", "boat", "chair", "table", "face",
    "hand", "horse", "phone", "book", "cup", "bottle", "hexagon", "heart", "arrow", "pentagon",
    "cube", "moon", "leaf", "flower", "pink", "brown", "gray", "cyan", "magenta", "turquoise",
]
# fmt: on


def plural(shape: str) -> str:
    """Return the plural: `circles`, `crosses`.

    Args:
        shape: name of a shape.
    """
    return shape + ("es" if shape.endswith("s") else "s")


def _byte_alphabet() -> list[str]:
    """Return the printable characters that represent the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def build_tokenizer() -> CLIPTokenizer:
    """Build a CLIP tokenizer with merges for the demo's words.

    Other words are split into smaller tokens, down to single bytes, as in any CLIP tokenizer.
    """
    words = [*COLORS, *SHAPES, *(plural(shape) for shape in SHAPES), *_FILLERS, "visual"]
    words += [word for phrase in _EVERYTHING for word in phrase.split()]
    alphabet = _byte_alphabet()
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        left = word[0]
        for i, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if i == len(word) - 1 else "")
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
    tokens += ["".join(pair) for pair in merges]
    tokens += [BOS, EOS]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]
        bos_token=BOS,
        eos_token=EOS,
        unk_token=EOS,
        pad_token=EOS,
        model_max_length=32,
    )


@dataclass(frozen=True)
class Concept:
    """Concept of a prompt: a colour, a shape, both, or everything.

    Attributes:
        color: index into `COLOR_NAMES`. Default: any colour.
        shape: index into `SHAPES`. Default: any shape.
        nothing: whether the concept matches nothing in any scene. Default: no.
    """

    color: int | None = None
    shape: int | None = None
    nothing: bool = False

    def select(self, colors: NDArray[np.int64], shapes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the matching objects, `bool[K]`.

        Args:
            colors: colour index of each object, `int64[K]`; -1 for no object.
            shapes: shape index of each object, `int64[K]`; -1 for no object.
        """
        chosen = shapes >= 0
        if self.nothing:
            chosen = np.zeros_like(chosen)
        if self.color is not None:
            chosen = chosen & (colors == self.color)
        if self.shape is not None:
            chosen = chosen & (shapes == self.shape)
        return chosen


def phrase(concept: Concept, rng: np.random.Generator) -> str:
    """Phrase a concept, half of the time in its plain form.

    Args:
        concept: concept to phrase.
        rng: source of randomness.
    """
    plain = rng.random() < 0.5
    if concept.color is None and concept.shape is None:
        return "shape" if plain else str(rng.choice(_EVERYTHING))
    if concept.shape is None:
        color = COLOR_NAMES[concept.color or 0]
        forms = ["{} shapes", "{}", "the {} one", "the {} ones", "{} objects", "a {} shape",
                 "all {} things", "the {} object"]  # fmt: skip
        return (f"{color} shape" if plain else str(rng.choice(forms))).format(color)
    shape = SHAPES[concept.shape]
    many = plural(shape)
    color = "" if concept.color is None else COLOR_NAMES[concept.color] + " "
    if plain:
        return color + shape
    article = "an" if color.startswith("orange") else "a"
    forms = [color + many, f"{article} {color}{shape}", f"the {color}{shape}", f"all {color}{many}",
             f"every {color}{shape}", f"the {color}{many}"]  # fmt: skip
    return str(rng.choice(forms))


def stranger(rng: np.random.Generator) -> str:
    """Draw a phrase that matches nothing in any scene.

    Args:
        rng: source of randomness.
    """
    word = str(rng.choice(_STRANGERS))
    if rng.random() < 0.3:
        word = "".join(chr(97 + int(i)) for i in rng.integers(0, 26, int(rng.integers(3, 9))))
    return str(rng.choice(["{}", "a {}", "the {}", "{}s"])).format(word)


def sample_concept(
    rng: np.random.Generator, colors: NDArray[np.int64], shapes: NDArray[np.int64]
) -> Concept:
    """Draw a concept for a scene; three in ten are absent, most of them similar to an object.

    Args:
        rng: source of randomness.
        colors: colour index of each object, `int64[K]`; -1 for no object.
        shapes: shape index of each object, `int64[K]`; -1 for no object.
    """
    present = np.flatnonzero(shapes >= 0)
    kind = rng.choice(
        ["both", "shape", "color", "all", "stranger"], p=[0.38, 0.24, 0.26, 0.06, 0.06]
    )
    if kind == "stranger":
        return Concept(nothing=True)
    if kind == "all":
        return Concept()
    color = int(rng.integers(len(COLOR_NAMES)))
    shape = int(rng.integers(len(SHAPES)))
    luck = rng.random()
    if len(present) and luck < 0.9:
        one = int(rng.choice(present))
        other = int(rng.choice(present))
        if luck < 0.66:
            color, shape = int(colors[one]), int(shapes[one])
        elif luck < 0.78:
            color, shape = int(colors[one]), int(shapes[other])
        elif luck < 0.84:
            color = int(colors[one])
        else:
            shape = int(shapes[one])
    if kind == "shape":
        return Concept(shape=shape)
    if kind == "color":
        return Concept(color=color)
    return Concept(color=color, shape=shape)
