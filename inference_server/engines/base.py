"""What an engine is, and what goes in and comes out of one.

Arrays only: engines know nothing of HTTP, JSON or any vendor's field names, and whoever holds an
engine need not know that there is torch behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

RGBImage = NDArray[np.uint8]
"""`uint8[H, W, 3]`, RGB."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image at the size that a model takes.

    Attributes:
        pixels: the engine's own; opaque to everybody else.
        size: (height, width) of the original image in pixels.
    """

    pixels: Any = field(repr=False)
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Embedding:
    """An encoded image.

    Attributes:
        size: (height, width) of the original image in pixels.
        features: the engine's own; opaque to everybody else.
        nbytes: memory that `features` keeps, for the cache.
    """

    size: tuple[int, int]
    features: Any = field(repr=False)
    nbytes: int

    def to(self, device: Any) -> Embedding:
        """The same on another device; a copy, unless it is there already.

        Args:
            device: a `torch.device` or its name.
        """
        return replace(self, features=self.features.to(device))


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer to one prompt, before any of it is enlarged to the image's size.

    Attributes:
        planes: `float32[N, h, w]`, low-resolution planes that cover the whole image; what is above
            `threshold` after bilinear enlargement is mask.
        threshold: see `planes`.
        scores: `float32[N]`, confidence or predicted IoU, 0 to 1.
        logits: `float32[N, h, w]`, what the engine takes back as a mask input, where it does.
        boxes: `float32[N, 4]`, x0, y0, x1, y1 in pixels of the original image, where the engine
            predicts them; they may reach out of it.
    """

    planes: NDArray[np.float32]
    threshold: float
    scores: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class ConceptPrompt:
    """A concept: words, exemplar boxes, or both.

    Attributes:
        text: the words; None with boxes only.
        boxes: `float32[K, 4]`, x0, y0, x1, y1 in pixels of the original image; K may be 0.
        labels: `int64[K]`, 1 for "like this", 0 for "not like this".
        threshold: least score of a candidate.
    """

    text: str | None
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class VisualPrompt:
    """One object, pointed at.

    Attributes:
        points: `float32[K, 2]`, x, y in pixels of the original image; K may be 0.
        labels: `int64[K]`, 1 on the object, 0 beside it.
        box: `float32[4]`, x0, y0, x1, y1 in pixels, or None.
        mask_input: `float32[h, w]` low-resolution logits of an earlier answer, or None.
        threshold: a candidate's predicted IoU is greater than this; 0 keeps all.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    box: NDArray[np.float32] | None = None
    mask_input: NDArray[np.float32] | None = None
    threshold: float = 0.0


QueryT = TypeVar("QueryT", covariant=True)
PromptT = TypeVar("PromptT")


@dataclass(frozen=True, slots=True)
class Query(Generic[QueryT]):
    """One prompt on one image.

    Attributes:
        embedding: of the image.
        prompt: what to find in it.
        multimask: where the engine can, three candidates, otherwise one.
        best: of the three, only the one with the highest score.
        logits: the answer is to hold what a later prompt may take as its mask input.
    """

    embedding: Embedding
    prompt: QueryT
    multimask: bool = True
    best: bool = False
    logits: bool = True


def queries(
    embedding: Embedding,
    prompts: Iterable[PromptT],
    *,
    multimask: bool = True,
    best: bool = False,
    logits: bool = True,
) -> list[Query[PromptT]]:
    """Several prompts on one image."""
    return [Query(embedding, prompt, multimask, best, logits) for prompt in prompts]


AskedT = TypeVar("AskedT", contravariant=True)


class Engine(Protocol[AskedT]):
    """Encodes images, and answers prompts from what it encoded.

    Called from worker threads: `prepare` and `decode` from several at a time, `encode` from one.
    """

    checkpoint: str
    """Name of the weights, for people."""

    @property
    def side(self) -> int:
        """Side of the square in pixels that images are resized to."""
        ...

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        """Resize an image.

        Args:
            pixels: `uint8[h, w, 3]`, the image or a reduced version of it.
            size: (height, width) of the original image; that of `pixels` by default.
            extent: rows and columns of `pixels` that the image covers; all of them by default.
        """
        ...

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """Encode a batch of images; the dear half."""
        ...

    def decode(self, queries: Sequence[Query[AskedT]]) -> list[Candidates]:
        """Answer prompts, on one image or on several, in their order; the cheap half."""
        ...
