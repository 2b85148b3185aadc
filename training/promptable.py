"""Training on clicks, boxes and corrective clicks, for any model with SAM's prompts and masks.

SAM 2, SAM 3's visual head and SAM 1 have the same prompt encoder and almost the same mask decoder.
Their trainings differ in the image side, which a subclass of `PromptableTraining` implements.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from rich.progress import Progress
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from torch import Tensor, nn

from training.optim import Muon, follow, schedule, take_step
from training.pool import SceneBatch, ScenePool, open_pool
from training.scenes import plain_scene
from training.visual_loss import Answer, VisualLoss, doubled, pick
from training.visual_prompts import Prompts, correction, first_prompts

_FIRST_CORRECTION = 0.1
_MUON_LR, _ADAMW_LR, _DECAY_FROM = 0.01, 1.5e-3, 0.45
_AVERAGE = 0.995
_WARM_UP = 50
_REPORT_EVERY, _SAVE_EVERY_S = 50, 60.0


class Scenes(Protocol):
    """A source of scenes, such as a `ScenePool`."""

    def sample(self, rng: np.random.Generator, count: int) -> SceneBatch:
        """Draw random scenes.

        Args:
            rng: source of randomness.
            count: number of scenes.
        """


class PromptableTraining(ABC):
    """One run, which can be interrupted and resumed.

    Args:
        out: directory of the run; its state is loaded from there.
        device: `cpu` or `cuda`.
        seed: seed of weights and prompts.

    Attributes:
        images_per_step: number of scenes per step, by whether the step runs at half the image side.
        half_size_share: share of the time, from the start, at half the image side.
        first_correction: share of the time without corrective clicks, from the start.
        corrected_share: share of the prompts that get a corrective click, those with poor masks
            first.
        corrected_weight: weight of the masks after it, relative to those before.
        plain_share: share of the steps on plain scenes.
        rate: factor of the learning rates.
        optimizers: optimizers of the parameters.
        rates: learning rate of each optimizer.
        parameters: all parameters that are trained.
    """

    images_per_step = (4, 8)
    half_size_share = 0.0
    first_correction = _FIRST_CORRECTION
    corrected_share = 0.25
    corrected_weight = 0.8
    plain_share = 0.2
    rate = 1.0

    def __init__(self, out: Path, device: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.out, self.device = out, device
        out.mkdir(parents=True, exist_ok=True)
        self.rng = np.random.default_rng(seed)
        self.model: Any = self._build().to(device).train()
        bounded = bool(self._mask_decoder.iou_prediction_head.sigmoid_output)
        width = self._prompt_encoder.embed_dim
        self.loss = VisualLoss(width, self._levels, bounded=bounded).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self._fused = torch.empty(0)
        self._mask_decoder.transformer.register_forward_hook(self._keep_fused)
        self._prepare_optimizers()
        self.step, self.spent = 0, 0.0
        if (out / "state.pt").exists():
            self._load()

    def _prepare_optimizers(self) -> None:
        """Set `optimizers`, `rates` and `parameters`."""
        trained = {n: p for n, p in self.model.named_parameters() if self._is_trained(n)}
        hidden = {n for n, p in trained.items() if p.ndim == 2 and self._is_hidden(n)}
        others = [parameter for name, parameter in trained.items() if name not in hidden]
        others += self.loss.parameters()
        self.parameters = [*trained.values(), *self.loss.parameters()]
        matrices = [trained[name] for name in trained if name in hidden]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=_MUON_LR),
            torch.optim.AdamW(others, lr=_ADAMW_LR, betas=(0.9, 0.98), weight_decay=1e-3),
        ]
        self.rates = [_MUON_LR, _ADAMW_LR]

    def _keep_fused(
        self, module: nn.Module, inputs: object, outputs: tuple[Tensor, Tensor]
    ) -> None:
        """Keep the image tokens that the mask decoder has fused with the prompt."""
        del module, inputs
        self._fused = outputs[1]

    @abstractmethod
    def _build(self) -> nn.Module:
        """Build the model with its initial weights."""

    @property
    @abstractmethod
    def _prompt_encoder(self) -> PromptEncoder:
        """The model's prompt encoder."""

    @property
    @abstractmethod
    def _mask_decoder(self) -> Any:
        """The model's mask decoder, one of `sam2`; its annotations are incomplete."""

    @property
    def _levels(self) -> int:
        """Number of feature levels with a dense loss."""
        return 3

    @abstractmethod
    def _encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Encode images.

        Args:
            images: `float32[B, 3, S, S]`, RGB, 0 to 1.

        Returns:
            Feature levels `float32[B, C, h, w]` for the dense loss, finest first, and inputs of
            the mask decoder, the coarsest last.
        """

    def _is_trained(self, name: str) -> bool:
        """Whether a parameter of the model is trained."""
        del name
        return True

    def _is_hidden(self, name: str) -> bool:
        """Whether a matrix of the model is one of a transformer's layers, for Muon."""
        return ".blocks." in name or (".transformer." in name and ".mlp." not in name)

    def _set_side(self, side: int) -> None:
        """Change the model's image side; by default it is fixed."""
        del side

    @property
    def _side(self) -> int:
        """Side of the model's input in pixels."""
        return int(self._prompt_encoder.input_image_size[0])

    @property
    def _mask_side(self) -> int:
        """Side of the mask logits."""
        return int(4 * self._prompt_encoder.image_embedding_size[0])

    def _decode(self, features: list[Tensor], prompts: Prompts, masks: Tensor | None) -> Answer:
        """Decode prompts; one in five ignores its mask input, `float32[P, m, m]`."""
        encoder = self._prompt_encoder
        # The prompt encoder adds half a pixel, as for the coordinates of a pixel's corner.
        points = prompts.points * self._side
        mask_input = None if masks is None else masks[:, None]
        sparse, dense = encoder((points, prompts.labels), boxes=None, masks=mask_input)
        if masks is not None:
            without = torch.rand(len(masks), 1, 1, 1, device=masks.device) < 0.2
            dense = torch.where(without, encoder.no_mask_embed.weight.view(1, -1, 1, 1), dense)
        *fine, coarse = (level[prompts.image] for level in features)
        logits, quality, tokens, presence = self._mask_decoder.predict_masks(
            image_embeddings=coarse,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=fine,
        )
        return Answer(logits, quality, tokens, presence, self._fused)

    def _shown(self, batch: SceneBatch, side: int) -> Tensor:
        """Return the batch's images at the model's side, `float32[B, 3, S, S]`, 0 to 1."""
        return F.avg_pool2d(batch.images.float(), batch.images.shape[-1] // side) / 255

    def _fitted(self, batch: SceneBatch) -> SceneBatch:
        """Fit the scenes, of any aspect ratio distorted to a square, into the model's input."""
        return batch

    def _to_correct(self, iou: Tensor, real: Tensor) -> Tensor:
        """Draw the prompts that get a corrective click: poor masks first, those of none last.

        Args:
            iou: IoU of each prompt's mask, `float32[P]`.
            real: whether there is an object, `bool[P]`.

        Returns:
            Their indices, `int64[K]`.
        """
        order = torch.rand_like(iou) - 0.5 * (iou < iou.median()).float()
        count = max(1, int(self.corrected_share * len(order)))
        return (order + 0.5 * (~real).float()).argsort()[:count]

    def losses(
        self, batch: SceneBatch, side: int, *, corrected: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of a batch: features, first prompts and, for some, a corrective click.

        Args:
            batch: scenes on the CPU, of a multiple of `side`.
            side: side of the model's input in pixels.
            corrected: whether to add corrective clicks.

        Returns:
            Scalar loss, and figures for the progress line by name.
        """
        self._set_side(side)
        batch = self._fitted(batch)
        first = first_prompts(batch, self.rng)
        batch = batch.to(self.device)
        levels, features = self._encode(self._shown(batch, side))
        loss = torch.zeros((), device=self.device)
        report: dict[str, float] = {}
        if levels:
            loss = 0.3 * self.loss.of_features(levels, batch)
            report = {"features": loss.item()}
        padding = int(self.rng.choice(3, p=[0.6, 0.2, 0.2]))
        target_side = 2 * self._mask_side
        for name, prompts, weight in zip(("click", "box"), first, (0.5, 0.6), strict=True):
            prompts = prompts.padded(padding).to(self.device)
            own = (batch.ids[prompts.image] == prompts.target[:, None, None]).float()
            real = prompts.target > 0
            own = F.adaptive_avg_pool2d(own * real[:, None, None], target_side)
            box = batch.boxes[prompts.image, prompts.target - 1]
            answer = self._decode(features, prompts, None)
            part, iou = self.loss.of_answer(answer, own, box)
            loss = loss + weight * part
            chosen = pick(iou, answer.choice)
            report[name] = chosen[real].mean().item()
            report[f"{name} quality off"] = (answer.quality - iou).abs().mean().item()
            if not corrected:
                continue
            keep = self._to_correct(chosen, real)
            single = torch.rand_like(chosen) < 0.5
            shown = torch.where(single, torch.zeros_like(answer.choice), answer.choice)
            masks = pick(answer.logits.detach(), shown)[keep].clamp(-32, 32)
            points, labels = correction(doubled(masks[:, None])[:, 0], own[keep], self.rng)
            again = prompts.corrected(keep, points.to(self.device), labels.to(self.device))
            part, iou = self.loss.of_answer(
                self._decode(features, again, masks), own[keep], box[keep]
            )
            loss = loss + self.corrected_weight * weight * part
            report[f"{name} before"] = chosen[keep][real[keep]].mean().item()
            report[f"{name} corrected"] = iou[real[keep], 0].mean().item()
        return loss, report | {"loss": loss.item()}

    def update(self, loss: Tensor, rate: float) -> None:
        """Take one step with both optimizers.

        Args:
            loss: scalar loss.
            rate: factor of both learning rates.
        """
        take_step(loss, self.optimizers, self.rates, self.parameters, factor=rate)
        follow(self.average, self.model, _AVERAGE)
        self.step += 1

    def save(self) -> None:
        """Save the state of the run."""
        save(self._state(), self.out / "state.pt")

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "spent": self.spent,
            "rng": self.rng.bit_generator.state,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def _load(self) -> None:
        # Trusted: this program wrote the file. The optimizers' state is not only tensors.
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=False)
        self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.spent = state["step"], state["spent"]
        self.rng.bit_generator.state = state["rng"]
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.average.load_state_dict(state["average"])
        for optimizer, part in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)

    def run(self, pool: Scenes, minutes: float, plain: Scenes | None = None) -> None:
        """Train until the time is over.

        Args:
            pool: training scenes.
            minutes: duration over all runs; on a CPU, time that the process computes.
            plain: scenes of plain shapes on plain backgrounds, for a share of the steps. Default:
                none.
        """
        reports: list[dict[str, float]] = []
        saved, side = self.spent, self._side
        # Other processes on the same cores do not shorten a run on the CPU.
        clock = time.process_time if self.device == "cpu" else time.monotonic
        with Progress(disable=not sys.stdout.isatty()) as progress:
            bar = progress.add_task(self.out.name, total=minutes * 60)
            while self.spent < minutes * 60:
                begin = clock()
                done = self.spent / (minutes * 60)
                half = done < self.half_size_share
                source = plain if plain and self.rng.random() < self.plain_share else pool
                batch = source.sample(self.rng, self.images_per_step[half])
                if self.rng.random() < 0.5:
                    batch = _turned(batch)
                loss, report = self.losses(
                    batch, side // 2 if half else side, corrected=done >= self.first_correction
                )
                self.update(loss, self.rate * schedule(done, self.step, _WARM_UP, _DECAY_FROM))
                self.spent += clock() - begin
                progress.update(bar, completed=self.spent)
                reports.append(report)
                if self.step % _REPORT_EVERY == 0:
                    line = json.dumps(
                        {"step": self.step, "seconds": round(self.spent)} | _mean(reports)
                    )
                    progress.console.print(line, soft_wrap=True, highlight=False)
                    with (self.out / "curve.jsonl").open("a") as curve:
                        curve.write(line + "\n")
                    reports.clear()
                if self.spent - saved > _SAVE_EVERY_S:
                    saved = self.spent
                    self.save()
        self.save()


def open_pools(
    folder: Path, size: int, scenes: int, plain_scenes: int, seed: int
) -> tuple[ScenePool, ScenePool]:
    """Open the two pools of a training on clicks and boxes; see `open_pool`.

    Args:
        folder: directory of all runs and pools.
        size: side of the square images in pixels.
        scenes: number of scenes.
        plain_scenes: number of scenes of plain shapes.
        seed: seed of the scenes.

    Returns:
        (the scenes, those of plain shapes).
    """
    plain = folder / "plain"
    return (
        open_pool(folder / "scenes", size, scenes, seed),
        open_pool(plain, size, plain_scenes, seed, scene=plain_scene),
    )


def _mean(reports: list[dict[str, float]]) -> dict[str, float]:
    names = {name: None for report in reports for name in report}
    values = {name: [report[name] for report in reports if name in report] for name in names}
    return {name: round(float(np.nanmean(value)), 4) for name, value in values.items()}


def _turned(batch: SceneBatch) -> SceneBatch:
    """Mirror the scenes at the diagonal."""
    return SceneBatch(
        batch.images.mT.contiguous(), batch.ids.mT.contiguous(), batch.shape, batch.color,
        batch.boxes[..., [1, 0, 3, 2]],
    )  # fmt: skip


def save(content: object, path: Path) -> None:
    """Save with `torch.save`, replacing the file only when it is complete.

    Args:
        content: content of the file.
        path: file to write.
    """
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)
