"""Losses of promptable models, on features and on decoder outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.pool import SceneBatch


@dataclass
class Answer:
    """Decoder outputs for `P` prompts: the single mask, then three alternatives.

    Attributes:
        logits: mask logits, `float32[P, 4, m, m]`.
        quality: predicted IoU, `float32[P, 4]`.
        tokens: mask tokens, `float32[P, 4, C]`.
        presence: logit that there is an object, `float32[P, 1]`.
        fused: image tokens fused with the prompt, `float32[P, h*w, C]`.
    """

    logits: Tensor
    quality: Tensor
    tokens: Tensor
    presence: Tensor
    fused: Tensor

    @property
    def choice(self) -> Tensor:
        """Index of the best alternative by predicted IoU, 1 to 3, `int64[P]`."""
        return 1 + self.quality[:, 1:].argmax(dim=1)


def doubled(logits: Tensor) -> Tensor:
    """Upsample masks to twice the side.

    Args:
        logits: `float32[P, M, h, w]`.
    """
    return F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Select one value per prompt.

    Args:
        values: `[P, M, ...]`.
        index: index of the value of each prompt, `int64[P]`.
    """
    return values[torch.arange(len(index), device=index.device), index]


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute the loss of masks: half a cross entropy, relative to the object's area, and dice.

    Args:
        logits: mask logits, `float32[P, M, m, m]`.
        truth: share of each pixel covered by the object, `float32[P, 2m, 2m]`.

    Returns:
        `float32[P, M]`.
    """
    logits, area = doubled(logits), truth.sum(dim=(1, 2))[:, None]
    meant = truth[:, None].expand_as(logits)
    cross = F.binary_cross_entropy_with_logits(logits, meant, reduction="none").sum(dim=(2, 3))
    share = logits.sigmoid()
    dice = (2 * (share * meant).sum(dim=(2, 3)) + 1) / (share.sum(dim=(2, 3)) + area + 1)
    return 0.5 * cross / (area + 0.01 * truth[0].numel()) + 1 - dice


class VisualLoss(nn.Module):
    """Losses with auxiliary linear heads that predict boxes from features and from tokens, and the
    prompt's object from image tokens fused with the prompt.

    Args:
        width: width of features and tokens.
        levels: number of feature levels.
        bounded: whether the predicted IoU is the output of a sigmoid.
    """

    def __init__(self, width: int, levels: int, *, bounded: bool) -> None:
        super().__init__()
        self._bounded = bounded
        self.box = nn.Linear(width, 4)
        self.fused = nn.Linear(width, 1)
        self.dense = nn.ModuleList(nn.Conv2d(width, 5, 1) for _ in range(levels))

    def of_features(self, levels: list[Tensor], batch: SceneBatch) -> Tensor:
        """Compute the dense loss: whether a position lies on an object, and the object's edges.

        Args:
            levels: feature levels `float32[B, C, h, w]`, finest first.
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
        """Compute the loss of masks, predicted IoU, presence and boxes.

        The single mask and the best of the three alternatives (sometimes another one) get a mask
        loss. Without an object, only predicted IoU and presence get a loss.

        Args:
            answer: decoder outputs.
            truth: share of each pixel covered by the object, `float32[P, 2m, 2m]`.
            box: box of the object, `float32[P, 4]`: x0, y0, x1, y1 as shares of the side.

        Returns:
            Scalar loss, and true IoU of each mask, `float32[P, 4]`.
        """
        count, area = len(truth), truth.sum(dim=(1, 2))[:, None]
        real = (area > 0).float()
        with torch.no_grad():
            every, meant = doubled(answer.logits), truth[:, None]
            hard, solid = every > 0, meant > 0.5
            union = (hard | solid).sum(dim=(2, 3))
            iou = (hard & solid).sum(dim=(2, 3)) / union.clamp(min=1)
            share = every.sigmoid()
            overlap = (share * meant).sum(dim=(2, 3)) / (share.sum(dim=(2, 3)) + area + 1)
            best = 1 + overlap[:, 1:].argmax(dim=1)
            other = torch.randint_like(best, 1, 4)
            best = torch.where(torch.rand(count, device=best.device) < 0.2, other, best)
        each = mask_loss(
            torch.stack([answer.logits[:, 0], pick(answer.logits, best)], dim=1), truth
        )
        off = F.smooth_l1_loss(
            self.box(answer.tokens), box[:, None].expand(-1, 4, -1), reduction="none", beta=0.05
        ).mean(dim=(1, 2))
        objects = real.sum().clamp(min=1)
        loss = (each.mean(dim=1) * real[:, 0]).sum() / objects
        loss = loss + 4 * (off * real[:, 0]).sum() / objects
        if self._bounded:
            quality = answer.quality.clamp(1e-5, 1 - 1e-5)
            loss = loss + 0.3 * F.binary_cross_entropy(quality, iou)
        else:
            loss = loss + F.mse_loss(answer.quality, iou)
        loss = loss + 0.1 * F.binary_cross_entropy_with_logits(answer.presence, real)
        inside = self.fused(answer.fused).view(count, -1)
        coarse = F.adaptive_avg_pool2d(truth, int(inside.shape[1] ** 0.5)).flatten(1)
        loss = loss + 2 * F.binary_cross_entropy_with_logits(
            inside, coarse, pos_weight=inside.new_tensor(4.0)
        )
        return loss, iou
