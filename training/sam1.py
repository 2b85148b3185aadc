"""Trains the demo SAM 1 on clicks, boxes and corrective clicks.

It starts from the demo SAM 3: its image encoder first learns to reproduce SAM 3's output, which is
dense supervision, and its decoder starts from that of SAM 3's visual head.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from torch import Tensor
from transformers import Sam3Model, SamImageProcessor, SamModel

from inference_server.engines.sam3.trunk import planes_of
from inference_server.engines.tensor_names import POSITION_MATRIX, name_in_sam2
from training.concept_model import IMAGE_SIZE as TEACHER_SIZE
from training.head import HEAD_SHARPNESS, read_head
from training.optim import schedule
from training.pool import SceneBatch, ScenePool
from training.promptable import PromptableTraining, open_pools
from training.sam1_model import (
    IMAGE_SIZE,
    MEAN,
    STD,
    Sam1,
    adopt_head,
    adopt_neck,
    adopt_trunk,
    sam1_config,
)
from training.visual import SHARPNESS, sharpened

_TEACHING_STEPS = 250
_TEACHING_IMAGES = 8
_ASPECTS = (1.0, 3 / 4, 3 / 4, 9 / 16, 9 / 16, 2 / 3)


class Sam1Training(PromptableTraining):
    """One run.

    Args:
        out: directory of the run; its state is loaded from there.
        device: `cpu` or `cuda`.
        seed: seed of weights and prompts.
        weights: directory of the demo SAM 3, with a visual head.
    """

    images_per_step = (8, 8)
    first_correction = 0.0

    def __init__(self, out: Path, device: str, seed: int, weights: Path) -> None:
        loaded: Any = Sam3Model.from_pretrained(weights, dtype=torch.float32)
        self._teacher: Any = loaded.vision_encoder.backbone.eval().requires_grad_(False)
        head = read_head(weights)
        if head is None:
            raise ValueError(f"{weights} has no visual head; run `python -m training head` first")
        self._head = sharpened(head, 1 / HEAD_SHARPNESS)
        super().__init__(out, device, seed)
        self._teacher.to(device)

    def _build(self) -> Sam1:
        model = Sam1(sam1_config())
        adopt_head(model, self._head)
        return model

    @property
    def _prompt_encoder(self) -> PromptEncoder:
        encoder: PromptEncoder = self.model.head.prompt_encoder
        return encoder

    @property
    def _mask_decoder(self) -> Any:
        return self.model.head.mask_decoder

    @property
    def _levels(self) -> int:
        return 1

    def _is_hidden(self, name: str) -> bool:
        return super()._is_hidden(name) or (".layers." in name and "rel_pos" not in name)

    def _encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        coarse = self.model.vision_encoder.neck(self.model.tokens(_normalized(images)))
        return [coarse], [coarse]

    def _fitted(self, batch: SceneBatch) -> SceneBatch:
        """Shrink one side of the images and pad it, as images are that are not square."""
        side = batch.ids.shape[-1]
        length = round(float(self.rng.choice(_ASPECTS)) * side)
        wide = self.rng.random() < 0.7
        size = (length, side) if wide else (side, length)
        images = F.interpolate(batch.images.float(), size, mode="area")
        padded = torch.empty_like(batch.images)
        padded[:] = (torch.tensor(MEAN) * 255).round().to(torch.uint8).view(3, 1, 1)
        padded[:, :, : size[0], : size[1]] = images.round().to(torch.uint8)
        ids = torch.zeros_like(batch.ids)
        small = F.interpolate(batch.ids[:, None].float(), size, mode="nearest")[:, 0]
        ids[:, : size[0], : size[1]] = small.long()
        share = torch.tensor([size[1], size[0], size[1], size[0]]) / side
        return SceneBatch(padded, ids, batch.shape, batch.color, batch.boxes * share)

    def learn_from_teacher(self, pool: ScenePool, steps: int = _TEACHING_STEPS) -> None:
        """Train the image encoder to reproduce SAM 3's, before the first step of a new run.

        Args:
            pool: training scenes.
            steps: number of steps. Default: 250.
        """
        if self.step:
            return
        images = self._shown(pool.sample(self.rng, 16).to(self.device), IMAGE_SIZE)
        adopt_trunk(self.model, self._teacher, images)
        with torch.no_grad():
            small = F.avg_pool2d(images, IMAGE_SIZE // TEACHER_SIZE)
            planes = planes_of(self._teacher(2 * small - 1).last_hidden_state)
        adopt_neck(self.model, self._head, planes)
        report: list[float] = []
        for step in range(steps):
            batch = pool.sample(self.rng, _TEACHING_IMAGES)
            if self.rng.random() < 0.5:
                batch = self._fitted(batch)
            images = self._shown(batch.to(self.device), IMAGE_SIZE)
            with torch.no_grad():
                small = F.avg_pool2d(images, IMAGE_SIZE // TEACHER_SIZE)
                meant = self._teacher(2 * small - 1).last_hidden_state
                level = self._neck_of_teacher(planes_of(meant))
            tokens = self.model.tokens(_normalized(images))
            off = (tokens.flatten(1, 2) - meant).square().mean() / meant.var()
            coarse = self.model.vision_encoder.neck(tokens)
            off_coarse = (coarse - level).square().mean() / level.var()
            self.update(off + 0.5 * off_coarse, schedule(step / steps, step, warm_up=20))
            report.append(off.item())
            if step % 25 == 24:
                line = {"teaching": step + 1, "off": round(sum(report) / len(report), 4)}
                print(json.dumps(line | {"off coarse": round(off_coarse.item(), 4)}), flush=True)
                report.clear()
        self.average.load_state_dict(self.model.state_dict())
        self.step = 0
        self.save()

    def _neck_of_teacher(self, planes: Tensor) -> Tensor:
        """What SAM 3's visual head makes of its image encoder's output for the mask decoder."""
        head = self._head
        projected = F.conv2d(planes, head["levels.2.proj1.weight"], head["levels.2.proj1.bias"])
        level = F.conv2d(
            projected, head["levels.2.proj2.weight"], head["levels.2.proj2.bias"], padding=1
        )
        return level + head["no_memory_embedding"].view(1, -1, 1, 1)


def _normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


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
) -> None:
    """Train the demo SAM 1, or continue an interrupted run.

    Args:
        out: directory of the run, with state and learning curve (`curve.jsonl`). The scenes are in
            the directory above, for all runs.
        minutes: duration over all runs, after the encoder has learned from SAM 3.
        threads: number of CPU threads.
        device: `cpu` or `cuda`.
        weights: directory of the demo SAM 3, with a visual head.
        seed: seed of weights, scenes and prompts. Default: 0.
        scenes: number of scenes in the pool. Default: 12,000.
        plain_scenes: number of scenes of plain shapes. Default: 2,000.
    """
    torch.set_num_threads(threads)
    pool, plain = open_pools(out.parent, IMAGE_SIZE, scenes, plain_scenes, seed)
    training = Sam1Training(out, device, seed, weights)
    training.learn_from_teacher(pool)
    training.run(pool, minutes, plain)


def export(out: Path, to: Path) -> None:
    """Export a run's model in the layout of `transformers`, in half precision.

    Args:
        out: directory of a run with a saved state.
        to: directory to write, for `from_pretrained`.
    """
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=False)
    trained = sharpened(state["average"], SHARPNESS)
    config = sam1_config()
    model: Any = SamModel(config)
    head = Sam1(config).head
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith("vision_encoder."):
                tensor.copy_(trained[name])
            elif name.startswith("shared_image_embedding."):
                tensor.copy_(trained[f"head.prompt_encoder.pe_layer.{POSITION_MATRIX}"])
            else:
                tensor.copy_(trained[f"head.{name_in_sam2(name, head)}"])
    model.half().save_pretrained(to)
    side = {"longest_edge": IMAGE_SIZE}
    SamImageProcessor(
        size=side,
        pad_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        mask_size={"longest_edge": 4 * IMAGE_SIZE // 16},
        mask_pad_size={"height": 4 * IMAGE_SIZE // 16, "width": 4 * IMAGE_SIZE // 16},
    ).save_pretrained(to)
