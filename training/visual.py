"""Trains the demo SAM 2 on clicks, boxes and corrective clicks.

Minutes on one CPU core suffice for two reasons. The decoder's cross attention starts as a lookup by
position (`visual_model.initialize`), which otherwise takes thousands of steps to learn. And the
first part of the training runs at half the image side, on which the model does not depend.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.progress import Progress
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from training.optim import Muon, schedule
from training.pool import SceneBatch, ScenePool, open_pool
from training.visual_loss import Answer, VisualLoss, doubled, pick
from training.visual_model import IMAGE_SIZE, STRIDE, initialize, visual_config
from training.visual_prompts import Prompts, correction, first_prompts

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF_SIZE_SHARE = 0.4
_FIRST_CORRECTION = 0.1
_IMAGES = 4
_MUON_LR, _ADAMW_LR, _DECAY_FROM = 0.01, 1.5e-3, 0.45
_AVERAGE = 0.995
SHARPNESS = 2.0
"""Factor of exported mask logits; a power of two, so that masks do not change. The stability score
of automatic masks compares masks at logits of -1 and 1, and soft outlines on planes of 64 x 64 fail
it: without the factor 23 % of objects were found, with it 83 %."""
_REPORT_EVERY, _SAVE_EVERY_S = 50, 240.0


class VisualTraining:
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
        self.rng = np.random.default_rng(seed)
        self.model: SAM2Base = instantiate(visual_config().model, _recursive_=True)
        initialize(self.model)
        self.model.to(device).train()
        self.loss = VisualLoss().to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        trained = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if name.startswith(("image_encoder.", "sam_")) or name == "no_mem_embed"
        }
        hidden = {
            name
            for name, parameter in trained.items()
            if parameter.ndim == 2
            and (".blocks." in name or (".transformer." in name and ".mlp." not in name))
        }
        others = [parameter for name, parameter in trained.items() if name not in hidden]
        others += self.loss.parameters()
        self.parameters = [*trained.values(), *self.loss.parameters()]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon([trained[name] for name in trained if name in hidden], lr=_MUON_LR),
            torch.optim.AdamW(others, lr=_ADAMW_LR, betas=(0.9, 0.98), weight_decay=1e-3),
        ]
        self.step, self.spent = 0, 0.0
        if (out / "state.pt").exists():
            self._load()

    def _set_side(self, side: int) -> None:
        """Change the model's image side."""
        prompts = self.model.sam_prompt_encoder
        prompts.input_image_size = (side, side)
        prompts.image_embedding_size = (side // STRIDE, side // STRIDE)
        self.model.image_encoder.trunk.blocks[-1].window_size = side // STRIDE

    def _encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return features `float32[B, WIDTH, h, w]` at strides 4, 8, 16, and decoder inputs."""
        levels = self.model.image_encoder(images)["backbone_fpn"]
        decoder = self.model.sam_mask_decoder
        coarse = levels[2] + self.model.no_mem_embed.view(1, -1, 1, 1)
        return levels, [decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), coarse]

    def _decode(self, features: list[Tensor], prompts: Prompts, masks: Tensor | None) -> Answer:
        """Decode prompts; one in five ignores its mask input, `float32[P, S/4, S/4]`."""
        encoder = self.model.sam_prompt_encoder
        points = prompts.points * encoder.input_image_size[0]
        mask_input = None if masks is None else masks[:, None]
        sparse, dense = encoder((points, prompts.labels), boxes=None, masks=mask_input)
        if masks is not None:
            without = torch.rand(len(masks), 1, 1, 1, device=masks.device) < 0.2
            dense = torch.where(without, encoder.no_mask_embed.weight.view(1, -1, 1, 1), dense)
        fine, middle, coarse = (level[prompts.image] for level in features)
        decoder: Any = self.model.sam_mask_decoder  # its annotation is incomplete
        logits, quality, tokens, presence = decoder.predict_masks(
            image_embeddings=coarse,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=[fine, middle],
        )
        return Answer(logits, quality, tokens, presence)

    def losses(
        self, batch: SceneBatch, side: int, *, corrected: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of a batch: features, first prompts and, for some, a corrective click.

        Args:
            batch: scenes on the CPU, of side `IMAGE_SIZE`.
            side: side of the model's input in pixels.
            corrected: whether to add corrective clicks.

        Returns:
            Scalar loss, and figures for the progress line by name.
        """
        self._set_side(side)
        first = first_prompts(batch, self.rng)
        batch = batch.to(self.device)
        images = F.avg_pool2d(batch.images.float(), IMAGE_SIZE // side) / 255
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (_MEAN, _STD))
        levels, features = self._encode((images - mean) / std)
        loss = 0.3 * self.loss.of_features(levels, batch)
        report = {"features": loss.item()}
        padding = int(self.rng.choice(3, p=[0.6, 0.2, 0.2]))
        for name, prompts, weight in zip(("click", "box"), first, (0.6, 0.4), strict=True):
            prompts = prompts.padded(padding).to(self.device)
            own = (batch.ids[prompts.image] == prompts.target[:, None, None]).float()
            real = prompts.target > 0
            own = F.avg_pool2d(own * real[:, None, None], 2 * IMAGE_SIZE // side)
            box = batch.boxes[prompts.image, prompts.target - 1]
            answer = self._decode(features, prompts, None)
            part, iou = self.loss.of_answer(answer, own, box)
            loss = loss + weight * part
            chosen = pick(iou, answer.choice)
            report[name] = chosen[real].mean().item()
            report[f"{name} quality off"] = (answer.quality - iou).abs().mean().item()
            if not corrected:
                continue
            # Poor masks first, prompts without an object last.
            order = torch.rand_like(chosen) - 0.5 * (chosen < chosen.median()).float()
            keep = (order + 0.5 * (~real).float()).argsort()[: len(order) // 4]
            single = torch.rand_like(chosen) < 0.5
            shown = torch.where(single, torch.zeros_like(answer.choice), answer.choice)
            masks = pick(answer.logits.detach(), shown)[keep].clamp(-32, 32)
            points, labels = correction(doubled(masks[:, None])[:, 0], own[keep], self.rng)
            again = prompts.corrected(keep, points.to(self.device), labels.to(self.device))
            part, iou = self.loss.of_answer(
                self._decode(features, again, masks), own[keep], box[keep]
            )
            loss = loss + 0.5 * weight * part
            report[f"{name} before"] = chosen[keep][real[keep]].mean().item()
            report[f"{name} corrected"] = iou[real[keep], 0].mean().item()
        return loss, report | {"loss": loss.item()}

    def update(self, loss: Tensor, rate: float) -> None:
        """Take one step with both optimizers.

        Args:
            loss: scalar loss.
            rate: factor of both learning rates.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, base in zip(self.optimizers, (_MUON_LR, _ADAMW_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * rate
            optimizer.step()
        with torch.no_grad():
            for average, value in zip(
                self.average.parameters(), self.model.parameters(), strict=True
            ):
                average.lerp_(value, 1 - _AVERAGE)
        self.step += 1

    def save(self) -> None:
        """Save the state of the run."""
        state = {
            "step": self.step,
            "spent": self.spent,
            "rng": self.rng.bit_generator.state,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        _save(state, self.out / "state.pt")

    def _load(self) -> None:
        # Trusted: this program wrote the file. The optimizers' state is not only tensors.
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=False)
        self.step, self.spent = state["step"], state["spent"]
        self.rng.bit_generator.state = state["rng"]
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.average.load_state_dict(state["average"])
        for optimizer, part in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)

    def run(self, pool: ScenePool, minutes: float) -> None:
        """Train until the time is over.

        Args:
            pool: training scenes.
            minutes: duration over all runs.
        """
        reports: list[dict[str, float]] = []
        saved = self.spent
        with Progress(disable=not sys.stdout.isatty()) as progress:
            bar = progress.add_task("sam2", total=minutes * 60)
            while self.spent < minutes * 60:
                begin = time.monotonic()
                done = self.spent / (minutes * 60)
                half = done < _HALF_SIZE_SHARE
                batch = pool.sample(self.rng, _IMAGES * 2 if half else _IMAGES)
                if self.rng.random() < 0.5:
                    batch = _turned(batch)
                loss, report = self.losses(
                    batch,
                    IMAGE_SIZE // 2 if half else IMAGE_SIZE,
                    corrected=done > _FIRST_CORRECTION,
                )
                self.update(loss, schedule(done, self.step, decay_from=_DECAY_FROM))
                self.spent += time.monotonic() - begin
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


def _save(content: object, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)


def sharpened(state: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Scale the mask logits of a SAM 2, both as output and as mask input.

    Args:
        state: state of the model.
        factor: factor of the logits.
    """
    names = [name for name in state if "output_hypernetworks_mlps." in name]
    last = max(name.split(".")[-2] for name in names)
    changed = {name: state[name] * factor for name in names if name.split(".")[-2] == last}
    first = "sam_prompt_encoder.mask_downscaling.0.weight"
    return state | changed | {first: state[first] / factor}


def export(out: Path, to: Path) -> None:
    """Export a run's model as `config.yaml` and `model.pt`, in half precision.

    Args:
        out: directory of a run with a saved state.
        to: directory to write.
    """
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=False)
    to.mkdir(parents=True, exist_ok=True)
    partial = to / "config.yaml.partial"
    OmegaConf.save(visual_config(), partial)
    partial.replace(to / "config.yaml")
    average = sharpened(state["average"], SHARPNESS)
    tensors = {name: tensor.half() for name, tensor in average.items()}
    _save({"model": tensors}, to / "model.pt")


def train(
    out: Path,
    minutes: float,
    *,
    threads: int,
    device: str,
    seed: int = 0,
    scenes: int = 14_000,
) -> None:
    """Train the demo SAM 2, or continue an interrupted run.

    Args:
        out: directory of the run, with scenes, state and learning curve (`curve.jsonl`).
        minutes: duration over all runs.
        threads: number of CPU threads.
        device: `cpu` or `cuda`.
        seed: seed of weights, scenes and prompts. Default: 0.
        scenes: number of scenes in the pool; each takes about 260 kB. Default: 14,000.
    """
    torch.set_num_threads(threads)
    pool = open_pool(out / f"scenes-{IMAGE_SIZE}", IMAGE_SIZE, scenes, seed)
    VisualTraining(out, device, seed).run(pool, minutes)
