"""The engine interface and its inputs and outputs.

All of them are arrays: an engine knows no HTTP, no JSON and no vendor's field names, and its
callers need no torch.
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
    """An image resized to a model's input.

    Attributes:
        pixels: The resized image, in a form private to the engine.
        size: (height, width) of the original image in pixels.
    """

    pixels: Any = field(repr=False)
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Embedding:
    """An encoded image.

    Attributes:
        size: (height, width) of the original image in pixels.
        features: The encoded image, in a form private to the engine.
        nbytes: Memory that `features` occupies, in bytes, for the cache's accounting.
    """

    size: tuple[int, int]
    features: Any = field(repr=False)
    nbytes: int

    def to(self, device: Any) -> Embedding:
        """This embedding on a device; copied unless it is there already.

        Args:
            device: A `torch.device` or its name, such as `cuda:0`.
        """
        return replace(self, features=self.features.to(device))


@dataclass(frozen=True, slots=True)
class Candidates:
    """The result of one prompt, at the model's mask resolution.

    Attributes:
        planes: `float32[N, h, w]`, low-resolution logits that cover the whole image. The mask is
            where the plane, upsampled bilinearly to the image's size, exceeds `threshold`.
        threshold: Value above which a pixel of `planes` belongs to the mask; 0 for the models of
            this package.
        scores: `float32[N]`, confidence or predicted IoU, 0 to 1.
        logits: `float32[N, s, s]`, mask inputs for later prompts; None if the engine takes none.
            They cover the model's input, which is more than the image if the model pads images.
        boxes: `float32[N, 4]`, x0, y0, x1, y1 in pixels of the original image, perhaps partly
            outside it; None if the engine predicts none.
        runs: Runs of each mask at the original image's size, see `Mask.runs`; `planes` are empty
            then, `[N, 0, 0]`. None (the default) if masks are to be made from `planes`.
        exemplars: `float32[T, C]`, the prompt's exemplars as the model sees them, for
            `ConceptPrompt.exemplars`; None (the default) unless the prompt asks for it.
    """

    planes: NDArray[np.float32]
    threshold: float
    scores: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] | None = None
    runs: list[NDArray[np.int64]] | None = None
    exemplars: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class ConceptPrompt:
    """A concept: words, exemplar boxes, or both.

    Attributes:
        text: The phrase; None for a prompt with boxes only.
        boxes: `float32[K, 4]`, x0, y0, x1, y1 in pixels of the original image; K may be 0.
        labels: `int64[K]`, 1 for an exemplar, 0 for a counter-example.
        threshold: Minimum score of a candidate, 0 to 1, exclusive; default 0.5.
        exemplars: `float32[T, C]`, exemplars of other images, as `Candidates.exemplars` of a prompt
            on those returned them; None (the default) for none.
        keep_exemplars: Return `Candidates.exemplars`, if there are boxes; default false.
    """

    text: str | None
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    threshold: float = 0.5
    exemplars: NDArray[np.float32] | None = None
    keep_exemplars: bool = False


@dataclass(frozen=True, slots=True)
class VisualPrompt:
    """Points and a box that select one object.

    Attributes:
        points: `float32[K, 2]`, x, y in pixels of the original image; K may be 0.
        labels: `int64[K]`, 1 for foreground, 0 for background.
        box: `float32[4]`, x0, y0, x1, y1 in pixels, or None.
        mask_input: `float32[h, w]`, low-resolution logits of an earlier result, or None.
        threshold: Minimum predicted IoU of a candidate, exclusive; 0 (the default) keeps all.
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
        embedding: The encoded image.
        prompt: What to find in the image.
        multimask: Predict three candidates instead of one, if the engine supports it.
        best: Keep only the candidate with the highest score of the three.
        logits: Return `Candidates.logits`, for use as a later prompt's mask input.
        tenant: Who asks. What an engine caches for one tenant must not speed up another's query,
            because the time would tell what has been asked.
        masks: Only masks are needed, so the engine may return `Candidates.runs` instead of planes.
    """

    embedding: Embedding
    prompt: QueryT
    multimask: bool = True
    best: bool = False
    logits: bool = True
    tenant: str = ""
    masks: bool = False


def queries(
    embedding: Embedding,
    prompts: Iterable[PromptT],
    *,
    multimask: bool = True,
    best: bool = False,
    logits: bool = True,
    tenant: str = "",
    masks: bool = False,
) -> list[Query[PromptT]]:
    """Create queries for several prompts on one image, with the same options.

    Args:
        embedding: The encoded image.
        prompts: What to find in the image.
        multimask: Predict three candidates instead of one, if the engine supports it; default true.
        best: Keep only the candidate with the highest score of the three; default false.
        logits: Return `Candidates.logits`; default true.
        tenant: Who asks; default: the anonymous tenant.
        masks: Only masks are needed, not `Candidates.planes`; default false.

    Returns:
        One query per prompt, in order.
    """
    return [Query(embedding, prompt, multimask, best, logits, tenant, masks) for prompt in prompts]


AskedT = TypeVar("AskedT", contravariant=True)


class Engine(Protocol[AskedT]):
    """Encodes images, and decodes prompts on encoded images.

    Called from worker threads: `prepare` and `decode` concurrently, `encode` from one at a time.
    """

    checkpoint: str
    """Name of the weights, for display."""

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
        ...

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        """Resize an image to the model's input.

        Args:
            pixels: `uint8[h, w, 3]`, RGB, the image or a reduced version of it.
            size: (height, width) of the original image in pixels; default: that of `pixels`.
            extent: Rows and columns of `pixels` that the image covers, perhaps fractional;
                default: all.
        """
        ...

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """Encode a batch of images; the expensive step.

        Args:
            images: Images from `prepare`.

        Returns:
            One embedding per image, in order.
        """
        ...

    def decode(self, queries: Sequence[Query[AskedT]]) -> list[Candidates]:
        """Decode prompts on one or several images.

        Args:
            queries: Prompts, each with its image.

        Returns:
            One result per query, in order.
        """
        ...
