"""The prompts of a run, and the objects that they find in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.engines.catalog import ModelKey
from inference_server.observability.metrics import Timings
from inference_server.segmentation.postprocess import suppress_overlaps
from inference_server.segmentation.prompts import group_points_by_box
from inference_server.segmentation.types import (
    AutomaticOptions,
    ConceptOptions,
    ImageRef,
    Instance,
    VisualOptions,
)

if TYPE_CHECKING:
    from inference_server.engines.registry import ModelRegistry
    from inference_server.segmentation.local import LocalSegmentationService
    from inference_server.segmentation.types import SegmentationResult, StoredImage

_TENANT = ""
"""Owner of all images: without a server there are no keys."""

_CONCEPT_SCORE, _AUTOMATIC_SCORE = 0.5, 0.8


@dataclass(frozen=True, slots=True)
class PromptInfo:
    """Description of a prompt in results.

    Attributes:
        kind: `text`, `visual` (a box or points) or `automatic`.
        category: category of its objects.
        text: the words of a `text` prompt; None for others.
        boxes: number of boxes, 0 or 1. Default: 0.
    """

    kind: str
    category: str
    text: str | None = None
    boxes: int = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Objects found in an image.

    Attributes:
        size: (height, width) of the image in pixels.
        instances: objects with non-empty masks, ordered by prompt and then by descending score;
            `prompt` is an index into `Search.asked`.
    """

    size: tuple[int, int]
    instances: Sequence[Instance]


@dataclass(frozen=True, slots=True)
class Search:
    """The prompts of a run.

    Attributes:
        texts: concepts whose instances are all found (SAM 3).
        boxes: x0, y0, x1, y1 in pixels; each box selects one object.
        points: x, y in pixels, and a label: 1 on the object, 0 outside it. Points in a box
            refine its object; all others together select one object.
        automatic: segment everything. Default: False.
        threshold: minimum score of an object, 0 to 1. Default: 0.5 for `texts`, 0.8 for
            `automatic`, 0 for boxes and points.
        nms: maximum IoU of two objects of any prompts; above it the one with the lower score is
            dropped. Default: keep all.
        version: SAM 2 size for boxes, points and `automatic`. Default: the model that
            `INFERENCE_VISUAL_MODEL` chooses.
        points_per_side: points per side of the grid of `automatic`. Default: 32.
        category: category of objects from boxes, points and `automatic`. Default: `object`.
    """

    texts: tuple[str, ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    points: tuple[tuple[float, float, int], ...] = ()
    automatic: bool = False
    threshold: float | None = None
    nms: float | None = None
    version: str | None = None
    points_per_side: int = 32
    category: str = "object"
    _objects: list[VisualPrompt] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        points = np.array(self.points, np.float32).reshape(-1, 3)
        found = group_points_by_box(
            points[:, :2],
            points[:, 2].astype(np.int64),
            np.array(self.boxes, np.float32).reshape(-1, 4),
            self.threshold or 0.0,
        )
        object.__setattr__(self, "_objects", found)

    @property
    def unused_points(self) -> int:
        """Number of negative points without an object: outside boxes, and no positive point."""
        return len(self.points) - sum(len(each.points) for each in self._objects)

    @property
    def asked(self) -> list[PromptInfo]:
        """Descriptions of the prompts, in the order of results."""
        return [
            *(PromptInfo("text", text, text) for text in self.texts),
            *(
                PromptInfo("visual", self.category, boxes=int(each.box is not None))
                for each in self._objects
            ),
            *([PromptInfo("automatic", self.category)] if self.automatic else []),
        ]

    @property
    def categories(self) -> list[str]:
        """Categories without duplicates, in the order of the prompts."""
        return list(dict.fromkeys(asked.category for asked in self.asked))

    @property
    def concepts(self) -> bool:
        """Whether the prompts need SAM 3."""
        return bool(self.texts)

    @property
    def visual(self) -> bool:
        """Whether the prompts need a model for points and boxes."""
        return bool(self._objects) or self.automatic

    def described(self) -> dict[str, Any]:
        """Return the options that affect the results, as JSON values by option name."""
        return {
            "--text": list(self.texts),
            "--box": [list(box) for box in self.boxes],
            "--point": [list(point) for point in self.points],
            "--automatic": self.automatic,
            "--threshold": self.threshold,
            "--nms": self.nms,
            "--points-per-side": self.points_per_side if self.automatic else None,
            "--category": self.category if self.visual else None,
        }

    def models(self, registry: ModelRegistry) -> list[str]:
        """Return the labels of the models that the prompts need, without loading the models.

        Args:
            registry: the configured models.

        Returns:
            Labels such as `sam3/demo`.
        """
        catalog = registry.catalog
        keys = [catalog.concept(None)] if self.concepts else []
        keys += [catalog.visual(self._sam2)] if self.visual else []
        return list(dict.fromkeys(map(catalog.label, keys)))

    async def load(self, registry: ModelRegistry) -> None:
        """Load the models that the prompts need.

        Args:
            registry: the configured models.

        Raises:
            ModelUnavailableError: a model cannot be loaded.
        """
        if self.concepts:
            await registry.concept()
        if self.visual:
            await registry.visual(self._sam2)

    async def run(
        self, segmenter: LocalSegmentationService, image: StoredImage, timings: Timings
    ) -> SearchResult:
        """Process the prompts on one image.

        Args:
            segmenter: the segmentation service.
            image: the image file.
            timings: records the seconds spent in each stage.

        Returns:
            The objects.

        Raises:
            InferenceServerError: the image cannot be decoded, or a prompt lies outside it.
        """
        reference = ImageRef(file=image)
        results: list[tuple[int, SegmentationResult]] = []  # with the number of the first prompt
        if self.concepts:
            nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
            least = _CONCEPT_SCORE if self.threshold is None else self.threshold
            concepts = [ConceptPrompt(text, *nothing, least) for text in self.texts]
            found = await segmenter.concept(
                _TENANT, reference, concepts, ConceptOptions(), timings=timings
            )
            results.append((0, found))
        if self._objects:
            found = await segmenter.visual(
                _TENANT,
                reference,
                self._objects,
                VisualOptions(multimask=True, within=True),
                timings=timings,
                model=self._sam2,
            )
            results.append((len(self.texts), found))
        if self.automatic:
            least = _AUTOMATIC_SCORE if self.threshold is None else self.threshold
            options = AutomaticOptions(
                points_per_side=self.points_per_side, pred_iou_threshold=least
            )
            found = await segmenter.automatic(
                _TENANT, reference, options, timings=timings, model=self._sam2
            )
            together = [replace(each, prompt=0) for each in found.instances]
            results.append(
                (len(self.texts) + len(self._objects), replace(found, instances=together))
            )
        instances = [
            replace(each, prompt=first + each.prompt, logits=None)
            for first, found in results
            for each in found.instances
            if not each.mask.is_empty
        ]
        if self.nms is not None:
            instances = await segmenter.in_thread(partial(suppress_overlaps, instances, self.nms))
        return SearchResult(results[0][1].image.embedding.size, instances)

    @property
    def _sam2(self) -> ModelKey | None:
        """The SAM 2 of `version`; None for the model that the settings choose."""
        return None if self.version is None else ModelKey("sam2", self.version)
