"""The search: what is looked for in every image, and what of it was found in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_server.engines.base import ConceptPrompt, VisualPrompt
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

_NOBODY = ""
"""Owner of images where there are no keys."""

_CONCEPT_SCORE, _AUTOMATIC_SCORE = 0.5, 0.8


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, as answers name it.

    Attributes:
        kind: `text`, `visual` (a box or points) or `automatic`.
        category: what its objects are called.
        text: the words, of `text`.
        boxes: how many boxes it has.
    """

    kind: str
    category: str
    text: str | None = None
    boxes: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in an image.

    Attributes:
        size: (height, width) of the image in pixels.
        instances: by prompt, the best first, each with a pixel; `prompt` counts `Search.asked`.
    """

    size: tuple[int, int]
    instances: Sequence[Instance]


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for.

    Attributes:
        texts: concepts, of each of which all instances are found (SAM 3).
        boxes: x0, y0, x1, y1 in pixels; each is around one object (SAM 2).
        points: x, y in pixels, and 1 on the object or 0 beside it. Those in a box refine its
            object, all others together are one object's.
        automatic: find everything (SAM 2).
        threshold: least score of an object; None is 0.5 of `texts`, 0.8 of `automatic`, and 0 of
            boxes and points.
        nms: of two objects of any prompts that overlap by more than this IoU, only the one with
            the higher score stays; None keeps both.
        version: SAM 2 size; None is the largest.
        points_per_side: of the grid of `automatic`.
        category: what objects that no text names are called.
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
        """How many points are beside nothing: negative, and neither in a box nor with a positive
        one.
        """
        return len(self.points) - sum(len(each.points) for each in self._objects)

    @property
    def asked(self) -> list[Asked]:
        """The prompts, in the order of answers."""
        return [
            *(Asked("text", text, text) for text in self.texts),
            *(
                Asked("visual", self.category, boxes=int(each.box is not None))
                for each in self._objects
            ),
            *([Asked("automatic", self.category)] if self.automatic else []),
        ]

    @property
    def categories(self) -> list[str]:
        """Names of what is found, each once, in the order of the prompts."""
        return list(dict.fromkeys(asked.category for asked in self.asked))

    @property
    def concepts(self) -> bool:
        """Whether SAM 3 is asked."""
        return bool(self.texts)

    @property
    def visual(self) -> bool:
        """Whether SAM 2 is asked."""
        return bool(self._objects) or self.automatic

    def described(self) -> dict[str, Any]:
        """What makes an answer another one, for comparisons: names and JSON values."""
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
        """Labels of the models that it takes, such as `sam3/demo`; loads none of them."""
        version = self.version or registry.default_version
        sam3 = [f"sam3/{registry.concept_name}"] if self.concepts else []
        return [*sam3, f"sam2/{registry.versions.get(version, version)}"] if self.visual else sam3

    async def load(self, registry: ModelRegistry) -> None:
        """Load the models that it takes.

        Raises:
            ModelUnavailableError: one cannot be loaded.
        """
        if self.concepts:
            await registry.concept()
        if self.visual:
            await registry.visual(self.version or registry.default_version)

    async def run(
        self, segmenter: LocalSegmentationService, image: StoredImage, timings: Timings
    ) -> Found:
        """Look for it in one image.

        Args:
            segmenter: that does it.
            image: the image.
            timings: of this image.

        Returns:
            What was found.

        Raises:
            InferenceServerError: the image cannot be read, or a prompt lies outside of it.
        """
        reference = ImageRef(file=image)
        results: list[tuple[int, SegmentationResult]] = []  # with the number of the first prompt
        if self.concepts:
            nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
            least = _CONCEPT_SCORE if self.threshold is None else self.threshold
            concepts = [ConceptPrompt(text, *nothing, least) for text in self.texts]
            found = await segmenter.concept(
                _NOBODY, reference, concepts, ConceptOptions(), timings=timings
            )
            results.append((0, found))
        if self._objects:
            found = await segmenter.visual(
                _NOBODY,
                self._version(segmenter),
                reference,
                self._objects,
                VisualOptions(multimask=True, within=True),
                timings=timings,
            )
            results.append((len(self.texts), found))
        if self.automatic:
            least = _AUTOMATIC_SCORE if self.threshold is None else self.threshold
            options = AutomaticOptions(
                points_per_side=self.points_per_side, pred_iou_threshold=least
            )
            found = await segmenter.automatic(
                _NOBODY, self._version(segmenter), reference, options, timings=timings
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
        return Found(results[0][1].image.embedding.size, instances)

    def _version(self, segmenter: LocalSegmentationService) -> str:
        return self.version or segmenter.models.default_version
