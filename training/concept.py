"""Trains the demo SAM 3: first the backbone on dense labels, then the whole model.

The stages are limited by time, not by steps, so that the same settings fit any machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
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
    TOKENS,
    WIDTH,
    concept_config,
    initialize,
)
from training.dense import DenseHeads, DenseTargets, FusionHead
from training.optim import MuonWithAdamW, schedule
from training.pool import ScenePool, open_pool
from training.vocabulary import build_tokenizer

_FROZEN_SHARE = 0.5
"""Share of the second stage with a frozen backbone: gradients from the randomly initialised parts
would undo the first stage."""

_PRESENCE_SHIFT = -2.4
"""Added to the presence logit at export, to reduce false positives for absent concepts, which the
loss weighs like misses. On 80 validation scenes F1 was the same at 0 and -0.8, and 0.002 lower at
-1.6."""

_REPORT_EVERY = 50
_SAVE_EVERY_S = 240.0
_BATCH = {"backbone": 16, "whole": 8}
_MUON_LR = {"backbone": 0.01, "whole": 0.008}
_ADAMW_LR = {"backbone": 2e-3, "whole": 1.5e-3}


@dataclass
class _Clock:
    """Elapsed time of a stage over all its runs.

    Attributes:
        minutes: planned duration.
        spent: elapsed seconds. Default: 0.
    """

    minutes: float
    spent: float = 0.0

    def run(self) -> Iterator[float]:
        """Yield the elapsed share of the time, 0 to 1, until the end."""
        while self.spent < self.minutes * 60:
            begin = time.monotonic()
            yield self.spent / (self.minutes * 60)
            self.spent += time.monotonic() - begin


def _normalized(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


class ConceptTraining:
    """One run, which can be interrupted and resumed.

    Args:
        out: directory of the run; its state is loaded from there.
        device: `cpu` or `cuda`.
        seed: seed of weights and prompts.
    """

    def __init__(self, out: Path, device: str, seed: int) -> None:
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
        self.rng = np.random.default_rng(seed)
        self._state = out / "state.pt"
        self._curve = out / "curve.jsonl"

    def _save(self, stage: str, step: int, clock: _Clock, optimizer: MuonWithAdamW) -> None:
        state = {
            "stage": stage,
            "step": step,
            "spent": clock.spent,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "fusion": self.fusion.state_dict(),
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

    def run(self, stage: str, minutes: float, pool: ScenePool, compile_model: bool) -> None:
        """Train one stage, or the rest of it after an interruption.

        Args:
            stage: `backbone` or `whole`.
            minutes: duration of the stage over all runs.
            pool: training scenes.
            compile_model: compile the backbone, which takes a minute and makes it a third faster.
        """
        state = self._load()
        if state is not None and state["stage"] != stage and stage == "backbone":
            return  # the later stage has started
        resume = state is not None and state["stage"] == stage
        clock = _Clock(minutes, state["spent"] if state and resume else 0.0)
        step = state["step"] if state and resume else 0
        trained = [*self.heads.named_parameters(), *self.fusion.named_parameters()]
        trained += [
            (name, parameter)
            for name, parameter in self.model.named_parameters()
            if stage == "whole" or name.startswith("vision_encoder.backbone.")
        ]
        optimizer = MuonWithAdamW(trained, muon_lr=_MUON_LR[stage], adamw_lr=_ADAMW_LR[stage])
        if state and resume:
            optimizer.load_state_dict(state["optimizer"])
        backbone = self.model.vision_encoder.backbone
        forward = torch.compile(backbone) if compile_model else backbone
        loss_of = ConceptLoss(self.model, self.fusion, self.tokenizer, self.device)
        numbers: list[dict[str, float]] = []
        saved = time.monotonic()
        self.model.train()
        for progress in clock.run():
            batch = pool.sample(self.rng, _BATCH[stage]).to(self.device)
            frozen = stage == "whole" and progress < _FROZEN_SHARE
            with torch.set_grad_enabled(not frozen):
                tokens = forward(_normalized(batch.images)).last_hidden_state
            loss, report = torch.zeros(()), {}
            targets = DenseTargets.of(batch, TOKENS)
            if not frozen:
                loss, report = self.heads(tokens, targets)
            if stage == "whole":
                main, more = loss_of(tokens, batch, targets, self.rng)
                loss, report = main + 0.5 * loss, report | more
            optimizer.step(loss, schedule(progress, step))
            step += 1
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
    scenes: int = 40_000,
    compile_model: bool = True,
    start_from: Path | None = None,
) -> None:
    """Train the demo SAM 3, or continue an interrupted run.

    Args:
        out: directory of the run, with scenes, state and learning curve (`curve.jsonl`).
        backbone_minutes: duration of the first stage.
        minutes: duration of the second stage.
        threads: number of CPU threads.
        device: `cpu` or `cuda`.
        seed: seed of weights, scenes and prompts. Default: 0.
        scenes: number of scenes in the pool. Default: 40,000.
        compile_model: compile the backbone; see `ConceptTraining.run`. Default: yes.
        start_from: checkpoint to continue from, without the first stage. Default: none.
    """
    torch.set_num_threads(threads)
    pool = open_pool(out / f"scenes-{IMAGE_SIZE}", IMAGE_SIZE, scenes, seed)
    training = ConceptTraining(out, device, seed)
    if start_from is not None:
        training.model.load_state_dict(Sam3Model.from_pretrained(start_from).state_dict())
    else:
        training.run("backbone", backbone_minutes, pool, compile_model)
    training.run("whole", minutes, pool, compile_model)


def export(out: Path, target: Path) -> None:
    """Export a run's model in the layout of the published SAM 3, in half precision.

    Args:
        out: directory of the run.
        target: directory to write, for `from_pretrained`.
    """
    training = ConceptTraining(out, "cpu", 0)
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=False)
    training.model.load_state_dict(state["model"])
    last = training.model.detr_decoder.presence_head.layer3
    assert last is not None  # noqa: S101 - the presence head has three layers
    last.bias.data += _PRESENCE_SHIFT
    training.model.to(torch.float16).save_pretrained(target)  # type: ignore[arg-type]
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    masks = {"height": MASK_SIZE, "width": MASK_SIZE}
    Sam3Processor(
        image_processor=Sam3ImageProcessor(size=side, mask_size=masks),
        tokenizer=training.tokenizer,
        target_size=IMAGE_SIZE,
    ).save_pretrained(target)
