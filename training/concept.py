"""Trains the demo SAM 3: first the backbone on dense labels, then the whole model.

The stages are limited by time, not by steps, so that the same settings fit any machine.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Sam3ImageProcessor, Sam3Model, Sam3Processor

from training.concept_loss import ConceptLoss
from training.concept_model import (
    HIDDEN,
    IMAGE_SIZE,
    MASK_SIZE,
    PRESENCE_BIAS,
    TOKENS,
    WIDTH,
    concept_config,
    initialize,
)
from training.dense import DenseHeads, DenseTargets, ExemplarHead, FusionHead
from training.head import read_head, write_head
from training.optim import MuonWithAdamW, follow, schedule
from training.pool import ScenePool, open_pool
from training.scenes import crowded_scene
from training.visual_model import IMAGE_SIZE as POOL_SIZE
from training.vocabulary import build_tokenizer

_FROZEN_SHARE = 0.5
"""Share of the second stage with a frozen backbone: gradients from the randomly initialised parts
would undo the first stage."""

_PRESENCE_SHIFT = -3.2
"""Added to the presence logit at export, to reduce false positives for absent concepts, which the
loss weighs like misses. On 100 validation scenes, the figures are nearly the same from -4.8 to
-2.4; on 40 mosaics of scenes, a lower value leaves fewer wrong objects, a higher one fewer misses
(docs/training.md)."""

_CROWDED_SHARE = 0.4
"""Share of the second stage's steps on crowded scenes."""

_CROWDED_OBJECTS = 24
_LABELS = "geometry_encoder.label_embed.weight"
_LABEL_DISTANCE = 150.0
_IMPROVE_RATE = 0.5
AVERAGE = 0.997
"""Share of the moving average of the parameters that stays in each step."""

_NEW_HEADS_STEPS = 100
_REPORT_EVERY = 50
_SAVE_EVERY_S = 240.0
_BATCH = {"backbone": 16, "exemplars": 16, "whole": 8}
_MUON_LR = {"backbone": 0.01, "whole": 0.008}
_ADAMW_LR = {"backbone": 2e-3, "whole": 1.5e-3}


@dataclass
class _Clock:
    """Elapsed time of a stage over all its runs.

    Attributes:
        minutes: planned duration.
        now: clock in seconds; on a CPU, time that the process computes, which other processes on
            the same cores do not shorten.
        spent: elapsed seconds. Default: 0.
    """

    minutes: float
    now: Callable[[], float]
    spent: float = 0.0

    def run(self) -> Iterator[float]:
        """Yield the elapsed share of the time, 0 to 1, until the end."""
        while self.spent < self.minutes * 60:
            begin = self.now()
            yield self.spent / (self.minutes * 60)
            self.spent += self.now() - begin


def _normalized(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


class ConceptTraining:
    """One run, which can be interrupted and resumed.

    Args:
        out: directory of the run; its state is loaded from there.
        device: `cpu` or `cuda`.
        seed: seed of weights and prompts.

    Attributes:
        improving: whether the run continues from trained weights: the backbone stays frozen, so
            that a visual head on it stays valid.
    """

    def __init__(self, out: Path, device: str, seed: int) -> None:
        self.improving = False
        torch.manual_seed(seed)
        self.out, self.device = out, device
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = build_tokenizer()
        config = concept_config(
            len(self.tokenizer), self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        )
        self.model = Sam3Model(config)
        initialize(self.model)
        self.model.to(device)  # type: ignore[arg-type]
        self.heads = DenseHeads(HIDDEN).to(device)
        self.fusion = FusionHead(WIDTH).to(device)
        self.exemplar = ExemplarHead(WIDTH).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.rng = np.random.default_rng(seed)
        self._state = out / "state.pt"
        self._curve = out / "curve.jsonl"

    def start_from(self, weights: Path) -> None:
        """Start from an export, with a frozen backbone and a lower learning rate.

        Args:
            weights: directory of the export.
        """
        self.improving = True
        exported: Any = Sam3Model.from_pretrained(weights, dtype=torch.float32)
        state = exported.state_dict()
        state[PRESENCE_BIAS] -= _PRESENCE_SHIFT
        separate_labels(state)
        self.model.load_state_dict(state)
        self.average.load_state_dict(state)

    def _save(self, stage: str, step: int, clock: _Clock, optimizer: MuonWithAdamW) -> None:
        state = {
            "stage": stage,
            "step": step,
            "spent": clock.spent,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "fusion": self.fusion.state_dict(),
            "exemplar": self.exemplar.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
        }
        partial = self._state.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(self._state)

    def _load(self) -> dict[str, Any] | None:
        if not self._state.exists():
            return None
        state: dict[str, Any] = torch.load(
            self._state, map_location=self.device, weights_only=False
        )
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.fusion.load_state_dict(state["fusion"])
        self.exemplar.load_state_dict(state["exemplar"])
        self.average.load_state_dict(state["average"])
        self.rng.bit_generator.state = state["rng"]
        return state

    def _report(self, stage: str, step: int, clock: _Clock, numbers: dict[str, float]) -> None:
        line = {"stage": stage, "step": step, "seconds": round(clock.spent, 1)} | {
            name: round(value, 4) for name, value in numbers.items()
        }
        with self._curve.open("a") as curve:
            curve.write(json.dumps(line) + "\n")
        left = clock.minutes - clock.spent / 60
        print(f"{stage} {step:6d}  {left:5.1f} min left  {line}", flush=True)

    def learn_kinds(self, minutes: float, pool: ScenePool) -> None:
        """Teach the geometry encoder the kinds of exemplars, before the others use its tokens.

        The encoder alone costs a fifth of the whole model per step, and its loss is direct: colour
        and shape of the object in each box. An interrupted run begins this stage again.

        Args:
            minutes: duration of the stage.
            pool: training scenes.
        """
        if self._load() is not None:
            return  # the later stage has started
        loss_of = ConceptLoss(self.model, self.fusion, self.exemplar, self.tokenizer, self.device)
        named = [
            (name, parameter)
            for part in (self.model.geometry_encoder, self.exemplar)
            for name, parameter in part.named_parameters()
        ]
        optimizer = MuonWithAdamW(named, muon_lr=_MUON_LR["whole"], adamw_lr=_ADAMW_LR["whole"])
        clock = _Clock(minutes, time.process_time if self.device == "cpu" else time.monotonic)
        right: list[float] = []
        self.model.train()
        for step, progress in enumerate(clock.run(), start=1):
            batch = pool.sample(self.rng, _BATCH["exemplars"]).to(self.device)
            small = batch.shrunk(IMAGE_SIZE)
            with torch.no_grad():
                backbone = self.model.vision_encoder.backbone
                tokens = backbone(_normalized(small.images)).last_hidden_state
            loss, share = loss_of.kinds(tokens, batch, self.rng)
            optimizer.step(loss, schedule(progress, step))
            right.append(share)
            if step % _REPORT_EVERY == 0:
                self._report("exemplars", step, clock, {"box_kind": float(np.mean(right))})
                right.clear()
        self.average.load_state_dict(self.model.state_dict())

    def run(
        self,
        stage: str,
        minutes: float,
        pool: ScenePool,
        compile_model: bool,
        crowded: ScenePool | None = None,
    ) -> None:
        """Train one stage, or the rest of it after an interruption.

        Args:
            stage: `backbone` or `whole`.
            minutes: duration of the stage over all runs.
            pool: training scenes.
            compile_model: compile the backbone, which takes a minute and makes it a third faster.
            crowded: scenes with many objects of few kinds, for some of the steps. Default: none.
        """
        state = self._load()
        if state is not None and state["stage"] != stage and stage == "backbone":
            return  # the later stage has started
        resume = state is not None and state["stage"] == stage
        now = time.process_time if self.device == "cpu" else time.monotonic
        clock = _Clock(minutes, now, state["spent"] if state and resume else 0.0)
        step = state["step"] if state and resume else 0
        trained = [
            named
            for head in (self.heads, self.fusion, self.exemplar)
            for named in head.named_parameters()
        ]
        trained += [
            (name, parameter)
            for name, parameter in self.model.named_parameters()
            if (stage == "whole" and not self.improving)
            or name.startswith("vision_encoder.backbone.") != (stage == "whole")
        ]
        frozen_share = 1.0 if self.improving else _FROZEN_SHARE
        factor, decay_from = (_IMPROVE_RATE, 0.3) if self.improving else (1.0, 0.5)
        optimizer = MuonWithAdamW(trained, muon_lr=_MUON_LR[stage], adamw_lr=_ADAMW_LR[stage])
        if state and resume:
            optimizer.load_state_dict(state["optimizer"])
        backbone = self.model.vision_encoder.backbone
        forward = torch.compile(backbone) if compile_model else backbone
        loss_of = ConceptLoss(self.model, self.fusion, self.exemplar, self.tokenizer, self.device)
        numbers: list[dict[str, float]] = []
        saved = time.monotonic()
        self.model.train()
        for progress in clock.run():
            full = crowded is not None and self.rng.random() < _CROWDED_SHARE
            source = crowded if crowded is not None and full else pool
            batch = source.sample(self.rng, _BATCH[stage]).to(self.device)
            small = batch.shrunk(IMAGE_SIZE)
            frozen = stage == "whole" and progress < frozen_share
            loss_of.settled = not self.improving or step >= _NEW_HEADS_STEPS
            with torch.set_grad_enabled(not frozen):
                tokens = forward(_normalized(small.images)).last_hidden_state
            loss, report = torch.zeros(()), {}
            targets = DenseTargets.of(small, TOKENS)
            if not frozen:
                loss, report = self.heads(tokens, targets)
            if stage == "whole":
                main, more = loss_of(tokens, batch, targets, self.rng)
                loss, report = main + 0.5 * loss, report | more
            optimizer.step(loss, factor * schedule(progress, step, decay_from=decay_from))
            step += 1
            follow(self.average, self.model, AVERAGE)
            if full:
                report = {f"crowded_{name}": value for name, value in report.items()}
            numbers.append(report)
            if step % _REPORT_EVERY == 0:
                names = {name for report in numbers for name in report}
                mean = {
                    k: float(np.nanmean([n.get(k, np.nan) for n in numbers])) for k in sorted(names)
                }
                self._report(stage, step, clock, mean)
                numbers.clear()
            if time.monotonic() - saved > _SAVE_EVERY_S:
                self._save(stage, step, clock, optimizer)
                saved = time.monotonic()
        self._save(stage, step, clock, optimizer)


def train(
    out: Path,
    *,
    backbone_minutes: float,
    minutes: float,
    threads: int,
    device: str,
    seed: int = 0,
    scenes: int = 12_000,
    crowded_scenes: int = 4_000,
    compile_model: bool = True,
    start_from: Path | None = None,
    exemplar_minutes: float = 5.0,
) -> None:
    """Train the demo SAM 3, or continue an interrupted run.

    Args:
        out: directory of the run, with state and learning curve (`curve.jsonl`). The scenes are in
            the directory above, for all runs.
        backbone_minutes: duration of the first stage.
        minutes: duration of the second stage.
        threads: number of CPU threads.
        device: `cpu` or `cuda`.
        seed: seed of weights, scenes and prompts. Default: 0.
        scenes: number of scenes in the pool. Default: 12,000.
        crowded_scenes: number of crowded scenes. Default: 4,000.
        compile_model: compile the backbone; see `ConceptTraining.run`. Default: yes.
        start_from: checkpoint to continue from, without the first stage. Default: none.
        exemplar_minutes: duration of the stage before the second one in which the geometry encoder
            learns the kinds of exemplars; only with `start_from`. Default: 5.
    """
    torch.set_num_threads(threads)
    pool = open_pool(out.parent / "scenes", POOL_SIZE, scenes, seed)
    training = ConceptTraining(out, device, seed)
    if start_from is not None:
        training.start_from(start_from)
        training.learn_kinds(exemplar_minutes, pool)
        compile_model = False  # takes longer than it saves without gradients
    else:
        training.run("backbone", backbone_minutes, pool, compile_model)
    crowded = open_crowded(out.parent / "crowded", crowded_scenes, seed)
    training.run("whole", minutes, pool, compile_model, crowded)


def open_crowded(folder: Path, count: int, seed: int) -> ScenePool:
    """Open the pool of crowded scenes; see `open_pool`.

    Args:
        folder: directory of the pool.
        count: number of scenes.
        seed: seed of the scenes.
    """
    return open_pool(folder, POOL_SIZE, count, seed, scene=crowded_scene, most=_CROWDED_OBJECTS)


def separate_labels(state: dict[str, Tensor]) -> None:
    """Move the embedding of negative labels away from that of positive ones, unless it is already.

    The embeddings of labels are added to those of boxes, which were 200 times larger in a model
    that had seen few negative boxes. So labels had hardly any effect, and learning was slow.

    Args:
        state: state of the model, changed in place.
    """
    labels = state[_LABELS]
    away = torch.randn(labels.shape[1], generator=torch.Generator().manual_seed(0))
    if (labels[1] - labels[0]).norm() < _LABEL_DISTANCE / 2:
        labels[0] = labels[1] + _LABEL_DISTANCE * away / away.norm()


def export(out: Path, target: Path) -> None:
    """Export a run's model in half precision, in the layout of the published SAM 3.

    A visual head that `target` has is kept: it stays valid if the run's backbone was frozen.

    Args:
        out: directory of the run.
        target: directory to write, for `from_pretrained`.
    """
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=False)["average"]
    export_state(state, out, target)


def export_state(state: dict[str, Tensor], out: Path, target: Path) -> None:
    """Export a state of the model; see `export`.

    Args:
        state: state of a `Sam3Model`, changed in place.
        out: directory of the run.
        target: directory to write.
    """
    training = ConceptTraining(out, "cpu", 0)
    state[PRESENCE_BIAS] += _PRESENCE_SHIFT
    head = read_head(target)
    training.model.load_state_dict(state)
    training.model.to(torch.float16).save_pretrained(target)  # type: ignore[arg-type]
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    masks = {"height": MASK_SIZE, "width": MASK_SIZE}
    Sam3Processor(
        image_processor=Sam3ImageProcessor(size=side, mask_size=masks),
        tokenizer=training.tokenizer,
        target_size=IMAGE_SIZE,
    ).save_pretrained(target)
    if head is not None:
        write_head(head, target)
