"""Trains the demo's SAM 2 on clicks, boxes and corrective clicks.

Two things make minutes of one CPU core enough. The decoder's cross attention begins as a lookup by
position (`initialize`), which it otherwise takes thousands of steps to find; and because nothing in
the model depends on the image's side, the first part of the training runs at half of it.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sam2
import torch
import torch.nn.functional as F  # noqa: N812
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from training.optim import Muon, schedule
from training.pool import SceneBatch, ScenePool, open_pool

IMAGE_SIZE = 256
WIDTH = 96
_EMBED, _HEADS, _STRIDE = 24, 8, 16
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_HALF_SIZE_SHARE = 0.4
_FIRST_CORRECTION = 0.1
_IMAGES = 4
_CLICKS, _BOXES = 5, 3
_MUON_LR, _ADAMW_LR, _DECAY_FROM = 0.01, 1.5e-3, 0.45
_AVERAGE = 0.995
_REPORT_EVERY, _SAVE_EVERY_S = 50, 240.0


def visual_config() -> DictConfig:
    """The published SAM 2.1 configuration made small: 2.2 million parameters, 1.9 of them trained.

    What only video needs (memory attention and memory encoder) is kept as small as it can be built.
    """
    published = Path(sam2.__path__[0]) / "configs/sam2.1/sam2.1_hiera_t.yaml"
    rope = {"feat_sizes": [IMAGE_SIZE // _STRIDE] * 2, "embedding_dim": WIDTH}
    small = {
        "image_size": IMAGE_SIZE,
        "num_maskmem": 1,
        "image_encoder": {
            "trunk": {
                "embed_dim": _EMBED,
                "stages": [1, 1, 3, 1],
                "global_att_blocks": [3, 4],
                "window_spec": [8, 8, IMAGE_SIZE // _STRIDE, 8],
                "window_pos_embed_bkg_spatial_size": [8, 8],
            },
            "neck": {
                "position_encoding": {"num_pos_feats": WIDTH},
                "d_model": WIDTH,
                "backbone_channel_list": [_EMBED * 8, _EMBED * 4, _EMBED * 2, _EMBED],
                "fpn_top_down_levels": [0, 1, 2, 3],
            },
        },
        "memory_attention": {
            "d_model": WIDTH,
            "num_layers": 1,
            "layer": {
                "d_model": WIDTH,
                "dim_feedforward": 64,
                "self_attention": rope,
                "cross_attention": rope | {"kv_in_dim": 16},
            },
        },
        "memory_encoder": {
            "in_dim": WIDTH,
            "out_dim": 16,
            "position_encoding": {"num_pos_feats": 16},
            "mask_downsampler": {"embed_dim": WIDTH, "kernel_size": 4, "stride": 4, "padding": 0},
            "fuser": {"num_layers": 0, "layer": {"dim": WIDTH}},
        },
    }
    merged = OmegaConf.merge(OmegaConf.load(published).model, small)
    return OmegaConf.create({"model": merged})


@torch.no_grad()
def initialize(model: SAM2Base) -> None:
    """Begin where little is left to find out.

    Every matrix keeps the scale of its input. Cross attention in the mask decoder begins as a
    comparison of positions: each head sees the sine and cosine of three frequencies of its own, in
    directions 60 degrees apart, and queries and keys see the same ones, so that a prompt attends to
    its own place and a place to the prompts near it. With it the IoU of a first click was 0.46
    after 200 steps; without, 0.09.

    Args:
        model: a fresh model, changed in place.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            weight = module.weight
            fan = len(weight) if isinstance(module, nn.ConvTranspose2d) else weight[0].numel()
            residual = name.endswith((".attn.proj", "out_proj", "mlp.layers.1"))
            nn.init.normal_(weight, std=(0.5 if residual else 1.0) * fan**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    trunk: Any = model.image_encoder.trunk
    prompts: Any = model.sam_prompt_encoder
    decoder: Any = model.sam_mask_decoder
    nn.init.normal_(trunk.pos_embed, std=0.05)
    nn.init.normal_(trunk.pos_embed_window, std=0.05)
    for lateral in model.image_encoder.neck.convs:
        lateral.conv.weight.mul_(0.3)
    quiet = [prompts.not_a_point_embed, prompts.no_mask_embed]
    quiet += [decoder.iou_token, decoder.mask_tokens, decoder.obj_score_token]
    for embedding in quiet:
        embedding.weight.mul_(0.1)
    for label in prompts.point_embeddings:
        label.weight.mul_(0.2)

    frequencies = WIDTH // 2
    seen = frequencies // 2
    per_head = seen // _HEADS
    head = torch.arange(seen) // per_head
    cycles = torch.cat(
        [
            torch.logspace(math.log10(0.12), math.log10(1.6), _HEADS)[head],
            torch.logspace(math.log10(0.2), math.log10(2.0), frequencies - seen),
        ]
    )
    angle = torch.cat(
        [
            0.7 * head + math.pi / per_head * (torch.arange(seen) % per_head),
            torch.rand(frequencies - seen) * math.pi,
        ]
    )
    wave = torch.stack([cycles * angle.cos(), cycles * angle.sin()])
    prompts.pe_layer.positional_encoding_gaussian_matrix.copy_(wave.half())  # as it is exported
    select = torch.zeros(frequencies, WIDTH)
    select[2 * torch.arange(seen), torch.arange(seen)] = 1.0
    select[2 * torch.arange(seen) + 1, frequencies + torch.arange(seen)] = 1.0
    transformer = decoder.transformer
    cross = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        cross += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in cross:
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.2).add_(select, alpha=2.5)
    spread = transformer.layers[0].self_attn  # hands the prompts' positions to the output tokens
    for projection in (spread.v_proj, spread.out_proj):
        projection.weight.mul_(0.2).add_(torch.eye(WIDTH))


@dataclass
class Prompts:
    """Prompts on the images of a batch, the same number of points in each.

    Attributes:
        points: `float32[P, N, 2]`, x and y in shares of the image's side.
        labels: `int64[P, N]`: 1 a click, 0 a negative one, 2 and 3 a box's corners, -1 padding.
        image: `int64[P]`, index of the image.
        target: `int64[P]`, id of the object that is meant; 0 where there is none.
    """

    points: Tensor
    labels: Tensor
    image: Tensor
    target: Tensor

    def to(self, device: str) -> Prompts:
        """The same prompts on another device."""
        return Prompts(*(t.to(device) for t in (self.points, self.labels, self.image, self.target)))

    def padded(self, count: int) -> Prompts:
        """With points that mean nothing, as in a request whose prompts differ in length."""
        return Prompts(
            F.pad(self.points, (0, 0, 0, count)), F.pad(self.labels, (0, count), value=-1),
            self.image, self.target,
        )  # fmt: skip

    def corrected(self, keep: Tensor, points: Tensor, labels: Tensor) -> Prompts:
        """Some of the prompts, with one more point `float32[K, 1, 2]`, label `int64[K, 1]` each."""
        return Prompts(
            torch.cat([self.points[keep], points], dim=1),
            torch.cat([self.labels[keep], labels], dim=1),
            self.image[keep],
            self.target[keep],
        )


def _point_in(mask: NDArray[np.bool_], rng: np.random.Generator, deepest: float) -> list[float]:
    """A point of `mask: bool[S, S]` in shares of its side: its deepest with that probability."""
    if rng.random() < deepest:
        depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)
        place = int(depth[1:-1, 1:-1].argmax())
    else:
        inside = np.flatnonzero(mask)
        place = int(inside[rng.integers(len(inside))]) if len(inside) else 0
    y, x = divmod(place, mask.shape[1])
    return [(x + rng.random()) / mask.shape[1], (y + rng.random()) / mask.shape[0]]


def first_prompts(batch: SceneBatch, rng: np.random.Generator) -> tuple[Prompts, Prompts]:
    """Clicks and boxes on a batch; every seventh click is on the background and means nothing.

    Args:
        batch: on the CPU.
        rng: source of randomness.

    Returns:
        (clicks, boxes), the boxes half of the time exact to a pixel and otherwise drawn by hand.
    """
    ids, boxes, shapes = batch.ids.numpy(), batch.boxes.numpy(), batch.shape.numpy()
    clicks, clicked, corners, boxed = [], [], [], []
    for plane, edges, shape in zip(ids, boxes, shapes, strict=True):
        present = np.flatnonzero(shape >= 0) + 1
        for _ in range(_CLICKS):
            target = int(rng.choice(present)) if len(present) and rng.random() > 0.15 else 0
            clicks.append([_point_in(plane == target, rng, 0.3 if target else 0.0)])
            clicked.append(target)
        for _ in range(_BOXES):
            target = int(rng.choice(present)) if len(present) else 0
            x0, y0, x1, y1 = edges[target - 1] if target else (0.0, 0.0, 0.0, 0.0)
            noise = rng.uniform(-0.5, 0.5, 4) / plane.shape[0]
            if rng.random() < 0.5:
                noise = rng.normal(0, 0.05, 4) * max(x1 - x0, y1 - y0)
            corners.append((np.array([x0, y0, x1, y1]) + noise).reshape(2, 2))
            boxed.append(target)

    def prompts(points: Any, labels: list[int], targets: list[int]) -> Prompts:
        each = len(targets) // len(ids)
        return Prompts(
            torch.from_numpy(np.asarray(points, np.float32)),
            torch.tensor(labels).expand(len(targets), -1),
            torch.arange(len(ids)).repeat_interleave(each),
            torch.tensor(targets),
        )

    return prompts(clicks, [1], clicked), prompts(corners, [2, 3], boxed)


def correction(logits: Tensor, truth: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The click of someone who looks at a mask: on what is missing or on what is too much.

    Args:
        logits: `float32[P, S, S]`.
        truth: `float32[P, S, S]`, share of each pixel that belongs to the object.
        rng: source of randomness.

    Returns:
        (points `float32[P, 1, 2]` in shares of the side, labels `int64[P, 1]`).
    """
    points, labels = [], []
    for found, meant in zip((logits > 0).cpu().numpy(), (truth > 0.5).cpu().numpy(), strict=True):
        missing, excess = meant & ~found, found & ~meant
        positive = bool(missing.sum() >= excess.sum())
        wrong = missing if positive else excess
        if not wrong.any():
            positive = bool(meant.any())
            wrong = meant if positive else ~meant
        points.append([_point_in(wrong, rng, 0.5)])
        labels.append([int(positive)])
    return torch.tensor(points), torch.tensor(labels)


@dataclass
class Answer:
    """What the decoder says to `P` prompts: one mask for all, then three to choose from.

    Attributes:
        logits: `float32[P, 4, S/4, S/4]`.
        quality: `float32[P, 4]`, predicted IoU.
        tokens: `float32[P, 4, WIDTH]`.
        presence: `float32[P, 1]`, logit of there being an object at all.
    """

    logits: Tensor
    quality: Tensor
    tokens: Tensor
    presence: Tensor

    @property
    def choice(self) -> Tensor:
        """`int64[P]`: the best of three by predicted IoU, as an index into all four."""
        return 1 + self.quality[:, 1:].argmax(dim=1)


def _doubled(logits: Tensor) -> Tensor:
    return F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)


def _of(values: Tensor, index: Tensor) -> Tensor:
    return values[torch.arange(len(index), device=index.device), index]


class VisualLoss(nn.Module):
    """Losses, with the linear heads that only training has: boxes from features and from tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.box = nn.Linear(WIDTH, 4)
        self.dense = nn.ModuleList(nn.Conv2d(WIDTH, 5, 1) for _ in range(3))

    def of_features(self, levels: list[Tensor], batch: SceneBatch) -> Tensor:
        """What lies at each place, and where are its edges?

        Args:
            levels: three of `float32[B, WIDTH, h, w]`, finest first.
            batch: ground truth, of any side.

        Returns:
            Scalar loss.
        """
        total = levels[0].new_zeros(())
        for head, level in zip(self.dense, levels, strict=True):
            said, count = head(level), level.shape[-1]
            stride = batch.ids.shape[-1] // count
            label = batch.ids[:, stride // 2 :: stride, stride // 2 :: stride]
            inside = (label > 0).float()
            line = (torch.arange(count, device=label.device) + 0.5) / count
            ys, xs = torch.meshgrid(line, line, indexing="ij")
            index = (label.flatten(1) - 1).clamp(min=0)[..., None].expand(-1, -1, 4)
            box = batch.boxes.gather(1, index).view(*label.shape, 4)
            edges = 8 * (box - torch.stack([xs, ys, xs, ys], dim=-1)).movedim(-1, 1)
            off = F.smooth_l1_loss(said[:, 1:], edges, reduction="none", beta=0.25).mean(dim=1)
            total = total + F.binary_cross_entropy_with_logits(said[:, 0], inside)
            total = total + (off * inside).sum() / (inside.sum() + 1)
        return total

    def of_answer(self, answer: Answer, truth: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Masks, their predicted IoU, presence, and where the object is.

        The first mask always learns; of the three it is the one that fits best, now and then
        another. Where there is no object every mask is wrong, and quality and presence say so.

        Args:
            answer: of `P` prompts.
            truth: `float32[P, S/2, S/2]`, share of each pixel that belongs to the object.
            box: `float32[P, 4]`, of the object, in shares of the side.

        Returns:
            (scalar loss, true IoU `float32[P, 4]`).
        """
        count, area = len(truth), truth.sum(dim=(1, 2))[:, None]
        real = (area > 0).float()
        with torch.no_grad():
            every, meant = _doubled(answer.logits), truth[:, None]
            hard, solid = every > 0, meant > 0.5
            union = (hard | solid).sum(dim=(2, 3))
            iou = (hard & solid).sum(dim=(2, 3)) / union.clamp(min=1)
            share = every.sigmoid()
            overlap = (share * meant).sum(dim=(2, 3)) / (share.sum(dim=(2, 3)) + area + 1)
            best = 1 + overlap[:, 1:].argmax(dim=1)
            other = torch.randint_like(best, 1, 4)
            best = torch.where(torch.rand(count, device=best.device) < 0.2, other, best)
        logits = _doubled(torch.stack([answer.logits[:, 0], _of(answer.logits, best)], dim=1))
        meant = truth[:, None].expand_as(logits)
        cross = F.binary_cross_entropy_with_logits(logits, meant, reduction="none").sum(dim=(2, 3))
        share = logits.sigmoid()
        dice = (2 * (share * meant).sum(dim=(2, 3)) + 1) / (share.sum(dim=(2, 3)) + area + 1)
        each = 0.5 * cross / (area + 0.01 * truth[0].numel()) + 1 - dice
        off = F.smooth_l1_loss(
            self.box(answer.tokens), box[:, None].expand(-1, 4, -1), reduction="none", beta=0.05
        ).mean(dim=(1, 2))
        objects = real.sum().clamp(min=1)
        loss = (each.mean(dim=1) * real[:, 0]).sum() / objects
        loss = loss + 4 * (off * real[:, 0]).sum() / objects
        quality = answer.quality.clamp(1e-5, 1 - 1e-5)
        loss = loss + 0.3 * F.binary_cross_entropy(quality, iou)
        loss = loss + 0.1 * F.binary_cross_entropy_with_logits(answer.presence, real)
        return loss, iou


class VisualTraining:
    """One run: model, losses, progress, and everything that is needed to carry on after a stop."""

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
        """Let the same model see images of another side."""
        prompts = self.model.sam_prompt_encoder
        prompts.input_image_size = (side, side)
        prompts.image_embedding_size = (side // _STRIDE, side // _STRIDE)
        self.model.image_encoder.trunk.blocks[-1].window_size = side // _STRIDE

    def _encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features `float32[B, WIDTH, h, w]` at strides 4, 8, 16, and what the decoder takes."""
        levels = self.model.image_encoder(images)["backbone_fpn"]
        decoder = self.model.sam_mask_decoder
        coarse = levels[2] + self.model.no_mem_embed.view(1, -1, 1, 1)
        return levels, [decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), coarse]

    def _decode(self, features: list[Tensor], prompts: Prompts, masks: Tensor | None) -> Answer:
        """Answer prompts; one in five of those with `masks: float32[P, S/4, S/4]` goes without."""
        encoder = self.model.sam_prompt_encoder
        points = prompts.points * encoder.input_image_size[0]
        mask_input = None if masks is None else masks[:, None]
        sparse, dense = encoder((points, prompts.labels), boxes=None, masks=mask_input)
        if masks is not None:
            without = torch.rand(len(masks), 1, 1, 1, device=masks.device) < 0.2
            dense = torch.where(without, encoder.no_mask_embed.weight.view(1, -1, 1, 1), dense)
        fine, middle, coarse = (level[prompts.image] for level in features)
        decoder: Any = self.model.sam_mask_decoder  # returns more than its annotation says
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
        """Loss of a batch: features, first prompts and, for some of these, a corrective click.

        Args:
            batch: on the CPU, of side `IMAGE_SIZE`.
            side: of the images that the model is to see.
            corrected: whether there are corrective clicks.

        Returns:
            (scalar loss, figures to report by name).
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
            chosen = _of(iou, answer.choice)
            report[name] = chosen[real].mean().item()
            report[f"{name} quality off"] = (answer.quality - iou).abs().mean().item()
            if not corrected:
                continue
            # Those that went wrong come first, those with nothing to find last.
            order = torch.rand_like(chosen) - 0.5 * (chosen < chosen.median()).float()
            keep = (order + 0.5 * (~real).float()).argsort()[: len(order) // 4]
            single = torch.rand_like(chosen) < 0.5
            shown = torch.where(single, torch.zeros_like(answer.choice), answer.choice)
            masks = _of(answer.logits.detach(), shown)[keep].clamp(-32, 32)
            points, labels = correction(_doubled(masks[:, None])[:, 0], own[keep], self.rng)
            again = prompts.corrected(keep, points.to(self.device), labels.to(self.device))
            part, iou = self.loss.of_answer(
                self._decode(features, again, masks), own[keep], box[keep]
            )
            loss = loss + 0.5 * weight * part
            report[f"{name} before"] = chosen[keep][real[keep]].mean().item()
            report[f"{name} corrected"] = iou[real[keep], 0].mean().item()
        return loss, report | {"loss": loss.item()}

    def update(self, loss: Tensor, rate: float) -> None:
        """One step of both optimizers at `rate` times their learning rates."""
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
        """Write everything that `_load` and `export` need."""
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
        # The file is this program's own; the optimizers' state needs more than tensors.
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=False)
        self.step, self.spent = state["step"], state["spent"]
        self.rng.bit_generator.state = state["rng"]
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.average.load_state_dict(state["average"])
        for optimizer, part in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)

    def run(self, pool: ScenePool, minutes: float) -> None:
        """Train until the run has taken `minutes` in all; see `train`."""
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
    """The same scenes mirrored in the diagonal."""
    return SceneBatch(
        batch.images.mT.contiguous(), batch.ids.mT.contiguous(), batch.shape, batch.color,
        batch.boxes[..., [1, 0, 3, 2]],
    )  # fmt: skip


def _save(content: object, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)


def export(out: Path, to: Path) -> None:
    """Write a checkpoint as SAM 2's are published: `config.yaml` and `model.pt`, in half precision.

    Args:
        out: folder of a run that has saved its state.
        to: folder of the checkpoint.
    """
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=False)
    to.mkdir(parents=True, exist_ok=True)
    partial = to / "config.yaml.partial"
    OmegaConf.save(visual_config(), partial)
    partial.replace(to / "config.yaml")
    tensors = {name: tensor.half() for name, tensor in state["average"].items()}
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
    """Train the demo's SAM 2; carries on from `out` where an earlier run stopped.

    Args:
        out: folder of the run: scenes, state (`export` reads it), learning curve (`curve.jsonl`).
        minutes: that the training takes in all, over however many runs.
        threads: CPU threads.
        device: `cpu` or `cuda`.
        seed: of weights, scenes and prompts.
        scenes: scenes in the pool; about 260 KB each.
    """
    torch.set_num_threads(threads)
    pool = open_pool(out / f"scenes-{IMAGE_SIZE}", IMAGE_SIZE, scenes, seed)
    VisualTraining(out, device, seed).run(pool, minutes)
