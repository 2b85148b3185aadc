"""Trains the demo SAM 3 as a whole: its image encoder, its concept side and its visual head.

The head's own training leaves the image encoder as the concept side needs it, and then that limits
the head's masks. Here both sides learn from the same images, encoded once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.concept import AVERAGE, ConceptTraining, export_state, open_crowded
from training.concept_loss import ConceptLoss
from training.concept_model import IMAGE_SIZE, TOKENS
from training.dense import DenseTargets
from training.head import HEAD_SHARPNESS, HeadTraining, write_head
from training.optim import MuonWithAdamW, follow
from training.pool import SceneBatch, ScenePool
from training.promptable import open_pools
from training.visual import sharpened
from training.visual_model import IMAGE_SIZE as POOL_SIZE

_RATE = 0.5
_MUON_LR, _ADAMW_LR = 0.008, 1.5e-3
_CROWDED_SHARE = 0.25
_NEW_HEADS_STEPS = 200
_CONCEPT_EVERY = 3
"""The concept side, which knows more already, learns in one of so many steps, of which each costs
twice as much as one of the head."""


class MixedPool:
    """Scenes of two pools; a batch is of one of them.

    Args:
        often: scenes of most batches.
        rarely: scenes of the others.
        share: share of the others.
    """

    def __init__(self, often: ScenePool, rarely: ScenePool, share: float) -> None:
        self._often, self._rarely, self._share = often, rarely, share

    def sample(self, rng: np.random.Generator, count: int) -> SceneBatch:
        """Draw random scenes.

        Args:
            rng: source of randomness.
            count: number of scenes.
        """
        return (self._rarely if rng.random() < self._share else self._often).sample(rng, count)


class JointTraining(HeadTraining):
    """One run, which begins with an exported SAM 3 and its head.

    Args:
        out: directory of the run; its state is loaded from there.
        device: `cpu` or `cuda`.
        seed: seed of prompts.
        weights: directory of the demo SAM 3.

    Raises:
        ValueError: The SAM 3 has no visual head.
    """

    images_per_step = (6, 6)
    first_correction = 0.0
    corrected_share = 0.5
    corrected_weight = 1.6
    plain_share = 0.15
    rate = _RATE

    def __init__(self, out: Path, device: str, seed: int, weights: Path) -> None:
        self._concept = ConceptTraining(out / "concept", device, seed)
        self._concept.start_from(weights)
        self._tokens = torch.empty(0)
        concept = self._concept
        self._concept_loss = ConceptLoss(
            concept.model, concept.fusion, concept.exemplar, concept.tokenizer, device
        )
        super().__init__(out, device, seed, weights)
        self._trunk = concept.model.train().vision_encoder.backbone
        if not self.step:
            self.start_from(weights)

    def _prepare_optimizers(self) -> None:
        super()._prepare_optimizers()
        concept = self._concept
        parts = (concept.model, concept.fusion, concept.exemplar)
        optimizer = MuonWithAdamW(
            [named for part in parts for named in part.named_parameters()],
            muon_lr=_MUON_LR,
            adamw_lr=_ADAMW_LR,
        )
        self.optimizers += optimizer.optimizers
        self.rates += optimizer.rates
        self.parameters += optimizer.parameters

    def _trunk_tokens(self, images: Tensor) -> Tensor:
        self._tokens = self._trunk(2 * images - 1).last_hidden_state
        return self._tokens

    def losses(
        self, batch: SceneBatch, side: int, *, corrected: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the losses of the head and, where the objects have names, of the concept side.

        Args:
            batch: scenes on the CPU, of a multiple of `side`.
            side: side of the model's input in pixels.
            corrected: whether to add corrective clicks.

        Returns:
            Scalar loss, and figures for the progress line by name.
        """
        loss, report = super().losses(batch, side, corrected=corrected)
        named = bool((batch.shape > 0).any())  # unlike objects of plain scenes
        if not named or self.step % _CONCEPT_EVERY:
            return loss, report
        small = batch.shrunk(IMAGE_SIZE).to(self.device)
        self._concept_loss.settled = self.step >= _NEW_HEADS_STEPS
        targets = DenseTargets.of(small, TOKENS)
        more, words = self._concept_loss(self._tokens, batch.to(self.device), targets, self.rng)
        return loss + 2 * more, report | {f"concept {name}": value for name, value in words.items()}

    def update(self, loss: Tensor, rate: float) -> None:
        """Take one step with all optimizers.

        Args:
            loss: scalar loss.
            rate: factor of the learning rates.
        """
        super().update(loss, rate)
        follow(self._concept.average, self._concept.model, AVERAGE)

    @property
    def _parts(self) -> dict[str, nn.Module]:
        concept = self._concept
        return {
            "concept": concept.model,
            "concept average": concept.average,
            "fusion": concept.fusion,
            "exemplar": concept.exemplar,
        }

    def _state(self) -> dict[str, Any]:
        return super()._state() | {name: part.state_dict() for name, part in self._parts.items()}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


def train(
    out: Path,
    minutes: float,
    *,
    threads: int,
    device: str,
    weights: Path,
    seed: int = 0,
    scenes: int = 12_000,
    plain_scenes: int = 2_000,
    crowded_scenes: int = 4_000,
) -> None:
    """Train the demo SAM 3 with its head, or continue an interrupted run.

    Args:
        out: directory of the run, with state and learning curve (`curve.jsonl`). The scenes are in
            the directory above, for all runs.
        minutes: duration over all runs.
        threads: number of CPU threads.
        device: `cpu` or `cuda`.
        weights: directory of the demo SAM 3 to begin with.
        seed: seed of scenes and prompts. Default: 0.
        scenes: number of scenes in the pool. Default: 12,000.
        plain_scenes: number of scenes of plain shapes. Default: 2,000.
        crowded_scenes: number of crowded scenes. Default: 4,000.
    """
    torch.set_num_threads(threads)
    pool, plain = open_pools(out.parent, POOL_SIZE, scenes, plain_scenes, seed)
    crowded = open_crowded(out.parent / "crowded", crowded_scenes, seed)
    mixed = MixedPool(pool, crowded, _CROWDED_SHARE)
    JointTraining(out, device, seed, weights).run(mixed, minutes, plain)


def export(out: Path, weights: Path) -> None:
    """Write a run's model into a SAM 3 directory of the published layout.

    Args:
        out: directory of a run with a saved state.
        weights: directory to write.
    """
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=False)
    export_state(state["concept average"], out / "concept", weights)
    write_head(sharpened(state["average"], HEAD_SHARPNESS), weights)
