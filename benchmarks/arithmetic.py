"""Masks of the demo checkpoints in bfloat16 compared with those in float32."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]

from benchmarks.overlap import iou
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam2_models import compute
from inference_server.demo.scenes import Scene
from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Prepared,
    VisualPrompt,
    queries,
)
from inference_server.engines.device import Compute
from inference_server.engines.load_weights import load_sam2, load_sam3, load_sam3_head
from inference_server.engines.sam2.engine import ReferenceEncoder, VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.engines.sam3.visual_engine import Sam3VisualEngine
from inference_server.engines.weights import find_sam2, find_sam3
from inference_server.masks import Mask, upsample_masks
from training.scores import MATCH, plane_iou, scenes

GOAL = 0.99
"""Minimum of the mean IoU of masks in bfloat16 and in float32."""

CHANGE = 0.005
"""Maximum change of a figure of the demo."""

_AUTOCAST = "bfloat16, sam2's image encoder with autocast"
_BESIDE = ((0.25, 0.25), (0.5, 0.5), (0.75, 0.75))
"""Clicks that may be beside the objects, as shares of the image's sides."""

Masks = list[list[Mask]]
"""Masks of each prompt."""

Truth = list[list[NDArray[np.bool_]]]
"""Objects that match each prompt."""

Ask = Callable[[Scene], Masks]


@dataclass
class Agreement:
    """Masks of one arithmetic, compared with those of float32 and with the truth.

    Attributes:
        with_float32: IoU of each mask with that of float32; 0 for a mask that only one of them has.
        hits: masks that match an object at an IoU of 0.5.
        masks: number of masks.
        objects: number of objects.
        with_truth: IoU of each hit with its object.
    """

    with_float32: list[float] = field(default_factory=list)
    hits: int = 0
    masks: int = 0
    objects: int = 0
    with_truth: list[float] = field(default_factory=list)

    def add(self, found: Masks, precise: Masks, truth: Truth) -> None:
        """Add the masks of the prompts of a scene.

        Args:
            found: masks in this arithmetic.
            precise: masks in float32.
            truth: objects that the prompts mean.
        """
        for mine, theirs, objects in zip(found, precise, truth, strict=True):
            same = _matched([[_iou(a, b) for b in theirs] for a in mine])
            self.with_float32 += same + [0.0] * (max(len(mine), len(theirs)) - len(same))
            right = _matched([[plane_iou(a, plane) for plane in objects] for a in mine])
            right = [each for each in right if each >= MATCH]
            self.hits += len(right)
            self.with_truth += right
            self.masks += len(mine)
            self.objects += len(objects)

    @property
    def f1(self) -> float:
        """F1 of objects at a mask IoU of 0.5."""
        return 2 * self.hits / max(1, self.masks + self.objects)


def _iou(one: Mask, other: Mask) -> float:
    return 1.0 if one.is_empty and other.is_empty else iou(one, other)


def _matched(table: Sequence[Sequence[float]]) -> list[float]:
    """IoUs of the pairs of a one-to-one assignment."""
    if not table or not table[0]:
        return []
    rows, columns = linear_sum_assignment(-np.array(table))
    return [float(table[row][column]) for row, column in zip(rows, columns, strict=True)]


def _clicks(scene: Scene) -> list[VisualPrompt]:
    return [_click(item.click()) for item in scene.objects]


def _click(point: tuple[float, float]) -> VisualPrompt:
    return VisualPrompt(np.array([point], np.float32), np.ones(1, np.int64))


def _boxes(scene: Scene) -> list[VisualPrompt]:
    nothing = np.empty((0, 2), np.float32), np.empty(0, np.int64)
    return [VisualPrompt(*nothing, np.array(item.box, np.float32)) for item in scene.objects]


def _beside(scene: Scene) -> list[VisualPrompt]:
    height, width = scene.image.shape[:2]
    return [_click((x * width, y * height)) for x, y in _BESIDE]


def _texts(scene: Scene) -> list[str]:
    item = scene.objects[0]
    return [f"{item.color} {item.shape}", item.shape, f"{item.color} shape", "shape"]


def _masks(answers: Sequence[Candidates], embedding: Embedding) -> Masks:
    return [upsample_masks(each.planes, embedding.size, each.threshold) for each in answers]


class _Visual:
    """Answers clicks and boxes; encodes each scene once."""

    def __init__(self, engine: VisualEngine | Sam3VisualEngine, trunk: TrunkEngine | None) -> None:
        self._engine, self._trunk = engine, trunk
        self._last: tuple[Scene, Embedding] | None = None

    def __call__(self, scene: Scene, prompts: list[VisualPrompt]) -> Masks:
        if self._last is None or self._last[0] is not scene:
            self._last = scene, self._encoded(scene)
        embedding = self._last[1]
        answers = self._engine.decode(queries(embedding, prompts, multimask=True, best=True))
        return _masks(answers, embedding)

    def _encoded(self, scene: Scene) -> Embedding:
        if self._trunk is None:
            return self._engine.encode([self._engine.prepare(scene.image)])[0]
        (trunk,) = self._trunk.encode([self._trunk.prepare(scene.image)])
        return self._engine.encode([Prepared(trunk.features, trunk.size)])[0]


def _sam2(using: Compute, *, reference: bool = False) -> _Visual:
    checkpoint = find_sam2("demo")["hiera_tiny"]
    model = load_sam2(checkpoint, using)
    engine = VisualEngine(model, checkpoint.name, using)
    if reference:
        engine._encoder = ReferenceEncoder(model, using)
    return _Visual(engine, None)


def _sam3(using: Compute) -> tuple[Ask, _Visual]:
    found = find_sam3("demo")
    model, processor = load_sam3(found.source, found.name, using)
    trunk = TrunkEngine(model, processor, found.name, using)
    concept = ConceptEngine(model, processor, found.name, using, trunk=trunk)
    head = load_sam3_head(found.source, found.name, using)
    assert head is not None  # noqa: S101 - the demo has one

    def words(scene: Scene) -> Masks:
        (embedding,) = concept.encode([concept.prepare(scene.image)])
        nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64)
        asked = [ConceptPrompt(text, *nothing) for text in _texts(scene)]
        return _masks(concept.decode(queries(embedding, asked)), embedding)

    return words, _Visual(Sam3VisualEngine(head, found.name, using), trunk)


def _tasks(dtype: str) -> Iterator[tuple[str, str, Ask]]:
    """Yield model, prompts and function of everything that is compared."""
    sam2, (words, head) = _sam2(compute(dtype)), _sam3(compute(dtype))
    yield "SAM 2", "clicks", lambda scene: sam2(scene, _clicks(scene))
    yield "SAM 2", "boxes", lambda scene: sam2(scene, _boxes(scene))
    yield "SAM 2", "clicks anywhere", lambda scene: sam2(scene, _beside(scene))
    yield "SAM 3", "texts", words
    yield "SAM 3's visual head", "clicks", lambda scene: head(scene, _clicks(scene))
    yield "SAM 3's visual head", "boxes", lambda scene: head(scene, _boxes(scene))


def _truth(prompts: str, scene: Scene) -> Truth:
    if prompts == "texts":
        return [[item.mask for item in scene.matching(text)] for text in _texts(scene)]
    if prompts == "clicks anywhere":
        return [[] for _ in _BESIDE]
    return [[item.mask] for item in scene.objects]


def run(small: bool) -> Report:
    """Segment scenes of the demo's evaluation in each arithmetic.

    Args:
        small: use 2 scenes in place of 60.
    """
    count = 2 if small else 60
    ways: dict[str, dict[tuple[str, str], Ask]] = {
        dtype: {(model, prompts): ask for model, prompts, ask in _tasks(dtype)}
        for dtype in ("float32", "bfloat16")
    }
    plain = _sam2(compute("bfloat16"), reference=True)
    ways[_AUTOCAST] = {
        ("SAM 2", "clicks"): lambda scene: plain(scene, _clicks(scene)),
        ("SAM 2", "boxes"): lambda scene: plain(scene, _boxes(scene)),
        ("SAM 2", "clicks anywhere"): lambda scene: plain(scene, _beside(scene)),
    }
    found: dict[tuple[str, str], dict[str, Agreement]] = {
        task: {way: Agreement() for way, asks in ways.items() if task in asks}
        for task in ways["float32"]
    }
    for _, scene in scenes(count):
        for task, agreements in found.items():
            truth = _truth(task[1], scene)
            precise = ways["float32"][task](scene)
            for way, agreement in agreements.items():
                masks = precise if way == "float32" else ways[way][task](scene)
                agreement.add(masks, precise, truth)
    rows = [
        _row(*task, way, agreement)
        for task, agreements in found.items()
        for way, agreement in agreements.items()
    ]
    return Report(
        "arithmetic",
        "Masks in bfloat16",
        [Table("Compared with float32", rows)],
        _goals(found),
        [
            f"The demo checkpoints on {count} scenes of their evaluation (`python -m training "
            "evaluate`), on the CPU: a click in each object and a box around it, and four texts "
            "per scene. Of several candidates for a click, the one with the highest predicted IoU. "
            "A mask that has no counterpart counts as an IoU of 0. F1 and IoU of hits compare the "
            "masks with the objects.",
            "Clicks anywhere are at a quarter, half and three quarters of the image's sides, most "
            "of them on the background, where the model is undecided between masks; so they are "
            "no goal.",
        ],
    )


def _row(model: str, prompts: str, way: str, agreement: Agreement) -> dict[str, Cell]:
    same, right = agreement.with_float32, agreement.with_truth
    return {
        "demo": model,
        "prompts": prompts,
        "arithmetic": way,
        "masks": agreement.masks,
        "mean IoU with float32": f"{statistics.fmean(same):.4f}" if same else "-",
        "lowest": f"{min(same):.3f}" if same else "-",
        "F1": f"{agreement.f1:.4f}" if agreement.objects else "-",
        "mean IoU of hits": f"{statistics.fmean(right):.4f}" if right else "-",
    }


def _goals(found: Mapping[tuple[str, str], Mapping[str, Agreement]]) -> list[Goal]:
    goals = []
    for (model, prompts), agreements in found.items():
        precise, half = agreements["float32"], agreements["bfloat16"]
        if prompts == "clicks anywhere":
            continue
        name = f"{model}, {prompts}"
        same = statistics.fmean(half.with_float32)
        change = max(
            abs(half.f1 - precise.f1),
            abs(statistics.fmean(half.with_truth) - statistics.fmean(precise.with_truth)),
        )
        goals += [
            Goal(f"{name}: mean IoU of bfloat16 and float32", same, GOAL, "at least", ""),
            Goal(f"{name}: change of F1 or IoU of hits", change, CHANGE, "at most", ""),
        ]
    return goals
