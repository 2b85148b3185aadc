"""Everything that a GPU does, compared with the models' usual code run eagerly on the same GPU."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import click as command_line
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.automatic import thresholds_of
from benchmarks.concept import TEXTS
from benchmarks.gpu_figures import BFLOAT16, FLOAT32, HERE, PLAIN, Figures, Scale
from benchmarks.gpu_peers import (
    EagerSam2,
    EagerSam3,
    Planes,
    compute_of,
    decoded,
    peak_mb,
    planes_iou,
    wait_for,
)
from benchmarks.gpu_service import Service, clients, planes_of
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.requests import Picture, picture
from benchmarks.sam2_models import Sam2, demo, softened
from inference_server.demo.scenes import make_scene
from inference_server.engines.device import choose_compute
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.segmentation.types import AutomaticOptions

GOALS = {"click": 10.0, "16 boxes": 20.0, "SAM 3: new image, one text": 60.0}
"""Maximum median in ms on an H200, by figure."""

LEAST_IOU = 0.98
MASKS = 5
"""Masks of each text."""

_SEED = 1
_EAGER = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}

_PLAIN = {"cuda_graphs": 0, "device_masks": 0}


FULL = Scale((1920, 1080), 3.0, 3, 2, (1, 4, 8), (1, 4, 16), (8, 64), 32, 420.0)
SMALL = Scale((320, 180), 0.0, 1, 0, (1,), (1, 2), (2, 4), 2, 3600.0)


def run(
    small: bool, *, device: str = "auto", save: Callable[[Report], None] | None = None
) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a minute or so.
        device: device of the models; `auto` for CUDA, which must be there then. Default: `auto`.
        save: called with what there is after each model. Default: not called.

    Raises:
        click.ClickException: There is no CUDA device, and no other was chosen.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            raise command_line.ClickException(
                "No CUDA device: PyTorch sees none on this machine, so there is nothing to "
                "measure. `python -m benchmarks gpu --device cpu --small` runs the same steps on "
                "the CPU, to test the benchmark."
            )
        device = "cuda"
    return _Run(SMALL if small else FULL, choose_compute(device, "auto").device, small, save).run()


class _Warnings(logging.Handler):
    """Collects the server's warnings, such as that graphs are off."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.messages:
            self.messages.append(message)


class _Run:
    """One run of the benchmark; see `run`."""

    def __init__(
        self,
        scale: Scale,
        device: torch.device,
        small: bool,
        save: Callable[[Report], None] | None,
    ) -> None:
        self._scale = scale
        self._device = device
        self._small = small
        self._save = save or (lambda report: None)
        self._figures = Figures(scale)
        self._memory: list[dict[str, Cell]] = []
        self._loads: list[dict[str, Cell]] = []
        self._goals: list[Goal] = []
        self._arithmetic = ""
        self._warnings = _Warnings()
        self._picture: Picture = picture(_SEED, scale.size)
        self._image = decoded(self._picture.jpeg)
        self._point = self._picture.at((0.4, 0.5))
        self._boxes = self._around_objects()
        self._masks: dict[str, list[Planes]] = {}
        self._options: AutomaticOptions | None = None

    def _around_objects(self) -> NDArray[np.float32]:
        """Sixteen boxes around the scene's objects, with a pixel more from one round to the next.

        Around nothing, models decide by less than their arithmetics differ.
        """
        tight = np.array([scene.box for scene in make_scene(_SEED, self._scale.size).objects])
        number = np.arange(16)
        margin = (number // len(tight))[:, None] * np.array([-1, -1, 1, 1])
        boxes: NDArray[np.float32] = (tight[number % len(tight)] + margin).astype(np.float32)
        return boxes

    def run(self) -> Report:
        logger = logging.getLogger("inference_server")
        logger.addHandler(self._warnings)
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

        def plain_float32() -> None:  # the server's setting is that of the process
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

        try:
            sam2 = demo() if self._small else softened("hiera_large")
            noting = self._figures.noting
            with noting("SAM 2, eager"):
                self._eager_sam2(sam2)
            for way, settings in ((PLAIN, _PLAIN), (HERE, {})):
                with noting(f"SAM 2, {way}"):
                    asyncio.run(self._sam2(sam2, way, settings))
            self._save(self._report())
            plain_float32()
            if not self._figures.is_late:
                with noting("SAM 3"):
                    self._sam3(sam2)
        finally:
            logger.removeHandler(self._warnings)
            plain_float32()
        return self._report()

    def _remember_memory(self, what: str) -> None:
        peak = peak_mb(self._device)
        if peak:
            self._memory.append({"what": what, "peak memory (MB)": peak})

    def _eager_sam2(self, sam2: Sam2) -> None:
        """Measure `SAM2ImagePredictor`."""
        figures, image = self._figures, self._image
        peak_mb(self._device)
        model = EagerSam2.of(sam2, compute_of(self._device, torch.float32))
        engine = VisualEngine(model.predictor.model, "eager", model.using)
        self._options = thresholds_of(engine, image)
        self._options = AutomaticOptions(
            points_per_side=self._scale.grid,
            pred_iou_threshold=self._options.pred_iou_threshold,
            stability_threshold=self._options.stability_threshold,
            mask_nms_threshold=1.0,
        )
        del engine
        for way, dtype in _EAGER.items():
            eager = model.in_dtype(dtype)
            eager.show(image)
            if way == FLOAT32:
                self._masks["click"] = [eager.click(self._point)]
                self._masks["16 boxes"] = [*eager.boxes(self._boxes)]
            figures.add_eager("click", way, partial(eager.click, self._point))
            figures.add_eager("16 boxes", way, partial(eager.boxes, self._boxes))

            def cold(eager: EagerSam2 = eager) -> None:
                eager.show(decoded(self._picture.jpeg))
                eager.click(self._point)

            figures.add_eager("new image, one click", way, cold)
            for count in self._scale.batches:
                figures.add_eager(f"encode {count}", way, partial(eager.encode, count))
            grid = f"automatic {self._scale.grid} x {self._scale.grid}"
            figures.add_eager(grid, way, partial(eager.automatic, image, self._options))
            self._remember_memory(f"SAM 2, {way}")

    async def _sam2(self, sam2: Sam2, way: str, settings: dict[str, Any]) -> None:
        """Measure this server with SAM 2."""
        figures, scale = self._figures, self._scale
        options = self._options
        assert options is not None  # noqa: S101 - made before
        async with Service(sam2, None, device=str(self._device), **settings) as service:
            self._arithmetic = service.arithmetic
            seconds = await service.load()
            self._loads.append({"clients": f"loading and warming, {way}", "seconds": seconds})
            image = service.image(self._picture)
            await figures.add("click", way, lambda: service.click(image, self._point))
            await figures.add("16 boxes", way, lambda: service.boxes(image, self._boxes))
            if way == PLAIN:
                return
            self._compare("click", planes_of(await service.click(image, self._point)))
            self._compare("16 boxes", planes_of(await service.boxes(image, self._boxes)))
            await figures.add(
                "new image, one click",
                way,
                lambda: service.click(service.image(self._picture), self._point),
            )
            for count in scale.batches:
                await figures.add(
                    f"encode {count}", way, partial(service.encode_together, self._picture, count)
                )
            grid = f"automatic {scale.grid} x {scale.grid}"

            async def automatic() -> None:
                await service.automatic(service.image(self._picture), options)

            await figures.add(grid, way, automatic)
            await self._clients(service)
        self._remember_memory(f"SAM 2, {way}")

    async def _clients(self, service: Service) -> None:
        """Measure clients that click on cached images."""
        images = [service.image(self._picture) for _ in range(min(8, max(self._scale.clients)))]
        for image in images:
            await service.click(image, self._point)
        for number in self._scale.clients:
            if self._figures.is_late:
                self._figures.skipped.append(f"{number} clients")
                continue
            found = await clients(
                lambda client: service.click(images[client % len(images)], self._point),
                number,
                max(self._scale.seconds, 0.2),
            )
            self._loads.append(
                {
                    "clients": f"{number} clients, clicks per second",
                    "seconds": found.rate,
                    "p50 (ms)": 1e3 * found.timing.median,
                    "p95 (ms)": 1e3 * found.timing.percentile(0.95),
                }
            )

    def _compare(self, figure: str, masks: list[Planes]) -> None:
        """Add the lowest IoU with the eager masks in float32."""
        lowest = planes_iou(masks, self._masks[figure])
        what = f"{figure}: lowest IoU with eager float32"
        self._goals.append(Goal(what, lowest, LEAST_IOU, "at least", ""))

    def _sam3(self, sam2: Sam2) -> None:
        """Measure `Sam3Model`, then this server on the same weights."""
        figures, scale, device = self._figures, self._scale, self._device
        model = EagerSam3.of(device, small=self._small)
        texts = TEXTS[: max(scale.texts)]
        for way, dtype in _EAGER.items():
            eager = model.in_dtype(dtype)
            vision, words = eager.vision(self._image), eager.sam3.words(texts)
            for count in scale.batches:
                figures.add_eager(f"SAM 3: encode {count}", way, partial(eager.encode, count))
            for count in scale.texts:
                some = type(words)(words.pooler_output[:count], words.mask[:count])
                figures.add_eager(_texts(count), way, partial(eager.concepts, vision, some))
            figures.add_eager(
                "SAM 3: new image, one text", way, partial(eager.whole, self._image, texts[0])
            )
            del vision, words
            wait_for(device)
            self._remember_memory(f"SAM 3, {way}")
        if not figures.is_late:
            asyncio.run(self._concepts(sam2, model))

    async def _concepts(self, sam2: Sam2, model: EagerSam3) -> None:
        """Measure this server with SAM 3."""
        figures, scale = self._figures, self._scale
        async with Service(sam2, model, device=str(self._device)) as service:
            embedding = await service.embedding(self._picture)
            asked = [
                (text, await _least_score(service, embedding, text))
                for text in TEXTS[: max(scale.texts)]
            ]
            for count in scale.texts:
                await figures.add(
                    _texts(count), HERE, partial(service.concepts, embedding, asked[:count])
                )
            for count in scale.batches:
                await figures.add(
                    f"SAM 3: encode {count}",
                    HERE,
                    partial(service.encode_concepts, self._picture, count),
                )

            async def whole() -> None:
                await service.concepts(await service.embedding(self._picture), asked[:1])

            await figures.add("SAM 3: new image, one text", HERE, whole)
        self._remember_memory(f"SAM 3, {HERE}")

    def _report(self) -> Report:
        """What was measured so far."""
        figures = self._figures
        weights = "demo weights" if self._small else "random weights at published sizes"
        report = Report(
            "gpu",
            "On a GPU",
            notes=[
                f"SAM 2.1 {'demo' if self._small else 'hiera_large'} and SAM 3, {weights}, an "
                f"image of {self._scale.size[0]} x {self._scale.size[1]}; medians. Here: the "
                f"service in this process with its queues and threads, without HTTP, on "
                f'{self._arithmetic}; "no graphs" is without CUDA graphs and with masks made '
                "on the CPU. A click and boxes end with masks of the image's size. Eager: "
                "`SAM2ImagePredictor`, `SAM2AutomaticMaskGenerator` and `Sam3Model` on the same "
                "device in the same run, in float32 (highest precision) and under autocast to "
                "bfloat16. Texts end with low-resolution masks, here on the host, of the "
                f"{MASKS} best candidates of each text, whose embedding is cached; eagerly with "
                "those of all 200, on the device.",
            ],
        )
        if self._device.type != "cuda":
            report.notes.append(
                f"**No CUDA: this ran on the {self._device.type}.** It shows that the benchmark "
                "works; the figures say nothing about a GPU."
            )
        if figures.skipped:
            report.notes.append(
                f"Skipped after {self._scale.budget:g} s: {', '.join(figures.skipped)}."
            )
        report.notes += [f"Failed: {failure}" for failure in figures.failures]
        report.notes += [f"Logged by the server: {text}" for text in self._warnings.messages]
        if figures.timings:
            report.tables.append(Table("Requests", figures.rows()))
        if self._loads:
            columns = {
                "what": "clients",
                "seconds, or clicks per second": "seconds",
                "p50 (ms)": "p50 (ms)",
                "p95 (ms)": "p95 (ms)",
            }
            rows: list[dict[str, Cell]] = [
                {name: row.get(column, "-") for name, column in columns.items()}
                for row in self._loads
            ]
            report.tables.append(Table("Loading, and clients that click", rows))
        if self._memory:
            report.tables.append(Table("Memory of the GPU", self._memory))
        report.goals += self._goals
        if self._device.type == "cuda" and not self._small:
            for figure, bound in GOALS.items():
                timing = figures.timings.get(figure, {}).get(HERE)
                if timing is not None:
                    what = f"{figure}: median"
                    report.goals.append(Goal(what, 1e3 * timing.median, bound, "at most", "ms"))
        return report


def _texts(count: int) -> str:
    return f"SAM 3: {count} text{'s' if count > 1 else ''}"


async def _least_score(service: Service, embedding: Any, text: str) -> float:
    """A threshold that `MASKS` candidates pass; this also caches the text."""
    (every,) = await service.concepts(embedding, [(text, 0.0)])
    scores = every.scores
    return float(scores[MASKS - 1] + scores[MASKS]) / 2
