"""The prompts of a run, and the objects that they find in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.engines.catalog import ModelKey
from inference_server.observability.metrics import Timings
from inference_server.segmentation.postprocess import suppress_overlaps
from inference_server.segmentation.prompts import group_points_by_box
from inference_server.segmentation.tiling import with_exemplars
from inference_server.segmentation.tiling.around import segment_prompts
from inference_server.segmentation.types import (
    AutomaticOptions,
    ConceptOptions,
    EncodedImage,
    ImageRef,
    Instance,
    SegmentationResult,
    VisualOptions,
)

if TYPE_CHECKING:
    from inference_server.engines.registry import ModelRegistry
    from inference_server.images.window import WindowSource
    from inference_server.segmentation.local import LocalSegmentationService
    from inference_server.segmentation.types import StoredImage

_TENANT = ""
"""Owner of all images: without a server there are no keys."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""

_CONCEPT_SCORE, _AUTOMATIC_SCORE = 0.5, 0.8


@dataclass(frozen=True, slots=True)
class PromptInfo:
    """Description of a prompt in results.

    Attributes:
        kind: `text`, `visual` (boxes or points) or `automatic`.
        category: category of its objects.
        text: the words of a `text` prompt; None for others.
        boxes: number of boxes. Default: 0.
    """

    kind: str
    category: str
    text: str | None = None
    boxes: int = 0


@dataclass(frozen=True, slots=True)
class Concept:
    """A concept of a run, by words or by exemplars.

    Attributes:
        category: category of its objects.
        text: the words. Default: None, only exemplars.
        boxes: x0, y0, x1, y1 in pixels of exemplars. Default: none.
        labels: for each box, 1 if it is an exemplar, 0 if it is a counter-example.
    """

    category: str
    text: str | None = None
    boxes: tuple[Box, ...] = ()
    labels: tuple[int, ...] = ()

    def prompt(self, threshold: float) -> ConceptPrompt:
        """Return the prompt of the concept.

        Args:
            threshold: minimum score of an object, 0 to 1.
        """
        boxes = np.array(self.boxes, np.float32).reshape(-1, 4)
        return ConceptPrompt(self.text, boxes, np.array(self.labels, np.int64), threshold)


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
        concepts: concepts whose instances are all found (SAM 3).
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
        box_categories: category of the object of each box. Default: `category` for all.
    """

    concepts: tuple[Concept, ...] = ()
    boxes: tuple[Box, ...] = ()
    points: tuple[tuple[float, float, int], ...] = ()
    automatic: bool = False
    threshold: float | None = None
    nms: float | None = None
    version: str | None = None
    points_per_side: int = 32
    category: str = "object"
    box_categories: tuple[str, ...] = ()
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
            *(
                PromptInfo(
                    "visual" if each.text is None else "text",
                    each.category,
                    each.text,
                    len(each.boxes),
                )
                for each in self.concepts
            ),
            *(
                PromptInfo("visual", self._category_of(number), boxes=int(each.box is not None))
                for number, each in enumerate(self._objects)
            ),
            *([PromptInfo("automatic", self.category)] if self.automatic else []),
        ]

    @property
    def automatic_prompt(self) -> int | None:
        """The index in `asked` of automatic masks; None without them."""
        return len(self.concepts) + len(self._objects) if self.automatic else None

    @property
    def categories(self) -> list[str]:
        """Categories without duplicates, in the order of the prompts."""
        return list(dict.fromkeys(asked.category for asked in self.asked))

    def _category_of(self, number: int) -> str:
        """Return the category of an object of boxes and points: those of boxes come first."""
        named = number < len(self.box_categories)
        return self.box_categories[number] if named else self.category

    @property
    def visual(self) -> bool:
        """Whether the prompts need a model for points and boxes."""
        return bool(self._objects) or self.automatic

    def described(self) -> dict[str, Any]:
        """Return the options that affect the results, as JSON values by option name."""
        return {
            "--text": [each.text for each in self.concepts if each.text is not None],
            **({"--label": classes} if (classes := self._classes()) else {}),
            **({"--example": examples} if (examples := self._examples()) else {}),
            "--box": [list(box) for box in self.boxes],
            "--point": [list(point) for point in self.points],
            "--automatic": self.automatic,
            "--threshold": self.threshold,
            "--nms": self.nms,
            "--points-per-side": self.points_per_side if self.automatic else None,
            "--category": self.category if self.visual else None,
        }

    def _classes(self) -> list[list[str]]:
        """Return what differs from the defaults: words with a category, and boxes with one."""
        words = [(each.category, each.text) for each in self.concepts if each.text is not None]
        named = [[category, text] for category, text in words if category != text]
        boxes = zip(self.box_categories, map(str, self.boxes), strict=False)
        return named + [[category, box] for category, box in boxes if category != self.category]

    def _examples(self) -> list[list[Any]]:
        """Return the exemplars by category."""
        return [
            [each.category, [list(box) for box in each.boxes], list(each.labels)]
            for each in self.concepts
            if each.boxes
        ]

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

    @property
    def has_everywhere(self) -> bool:
        """Whether there are prompts that search the whole image: concepts or `automatic`."""
        return bool(self.concepts) or self.automatic

    @property
    def tiled_by(self) -> tuple[Literal["concept", "visual"], ModelKey | None]:
        """The model whose input determines the size of windows: kind of prompts and its key."""
        return ("concept", None) if self.concepts else ("visual", self._sam2)

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
        results = []
        if self.has_everywhere:
            results.append(await self.everywhere(segmenter, reference, timings))
        if self._objects:
            found = await segmenter.visual(
                *(_TENANT, reference, self._objects, self._visual_options),
                timings=timings,
                model=self._sam2,
            )
            results.append(self._numbered(found, len(self.concepts)))
        instances = [
            replace(each, logits=None)
            for found in results
            for each in found.instances
            if not each.mask.is_empty
        ]
        instances.sort(key=lambda each: each.prompt)
        if self.nms is not None:
            instances = await segmenter.in_thread(partial(suppress_overlaps, instances, self.nms))
        return SearchResult(results[0].image.embedding.size, instances)

    @property
    def prompts(self) -> list[ConceptPrompt]:
        """The prompts of the concepts."""
        least = _CONCEPT_SCORE if self.threshold is None else self.threshold
        return [each.prompt(least) for each in self.concepts]

    async def everywhere(
        self,
        segmenter: LocalSegmentationService,
        image: ImageRef,
        timings: Timings,
        prompts: Sequence[ConceptPrompt] | None = None,
    ) -> SegmentationResult:
        """Process the prompts that search the whole image.

        Args:
            segmenter: the segmentation service.
            image: the image, or a window of a raster.
            timings: records the seconds spent in each stage.
            prompts: those of the concepts, with exemplars of another window. Default: `prompts`.

        Returns:
            The objects; `prompt` is an index into `asked`.

        Raises:
            InferenceServerError: the image cannot be decoded.
        """
        results = []
        if self.concepts:
            concepts = self.prompts if prompts is None else prompts
            found = await segmenter.concept(
                _TENANT, image, concepts, ConceptOptions(), timings=timings
            )
            results.append(found)
        if (automatic := self.automatic_prompt) is not None:
            least = _AUTOMATIC_SCORE if self.threshold is None else self.threshold
            options = AutomaticOptions(
                points_per_side=self.points_per_side, pred_iou_threshold=least
            )
            found = await segmenter.automatic(
                _TENANT, image, options, timings=timings, model=self._sam2
            )
            together = [replace(each, prompt=0) for each in found.instances]
            found = replace(found, instances=together)
            results.append(self._numbered(found, automatic))
        return SegmentationResult(
            EncodedImage.joined([each.image for each in results]),
            [instance for each in results for instance in each.instances],
        )

    async def in_all_windows(
        self,
        segmenter: LocalSegmentationService,
        source: WindowSource,
        tile: tuple[int, int],
        timings: Timings,
    ) -> list[ConceptPrompt]:
        """Encode the exemplars in a raster, so that they can be used in all of its windows.

        Args:
            segmenter: the segmentation service.
            source: the raster.
            tile: (height, width) of a window in pixels.
            timings: records the seconds spent in each stage.

        Returns:
            The prompts of the concepts.

        Raises:
            InferenceServerError: a window cannot be read, or an exemplar is outside the raster or
                larger than a window.
        """
        return await with_exemplars(
            *(segmenter, _TENANT, source, self.prompts, max(tile)), timings=timings
        )

    async def selected(
        self,
        segmenter: LocalSegmentationService,
        source: WindowSource,
        tile: tuple[int, int],
        timings: Timings,
    ) -> list[Instance]:
        """Process the boxes and points in a raster, each in a window around it.

        Args:
            segmenter: the segmentation service.
            source: the raster.
            tile: (height, width) of a window in pixels.
            timings: records the seconds spent in each stage.

        Returns:
            The objects with non-empty masks; `prompt` is an index into `asked`.

        Raises:
            InferenceServerError: a window cannot be read, or a prompt lies outside the raster.
        """
        if not self._objects:
            return []
        found = await segment_prompts(
            *(segmenter, _TENANT, source, self._objects, self._visual_options, max(tile)),
            timings=timings,
            model=self._sam2,
        )
        numbered = self._numbered(found, len(self.concepts)).instances
        instances = [each for each in numbered if not each.mask.is_empty]
        if self.nms is not None:
            instances = await segmenter.in_thread(partial(suppress_overlaps, instances, self.nms))
        return instances

    _visual_options: ClassVar[VisualOptions] = VisualOptions(multimask=True, within=True)

    @staticmethod
    def _numbered(found: SegmentationResult, first: int) -> SegmentationResult:
        """Number prompts from that of the first one."""
        numbered = [replace(each, prompt=first + each.prompt) for each in found.instances]
        return replace(found, instances=numbered)

    @property
    def _sam2(self) -> ModelKey | None:
        """The SAM 2 of `version`; None for the model that the settings choose."""
        return None if self.version is None else ModelKey("sam2", self.version)
