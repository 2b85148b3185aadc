"""Dense supervision of backbone tokens with linear heads that are discarded after training.

A detection loss alone teaches a small backbone almost nothing for thousands of steps. Predicting
for each token the object that it lies on, and that object's edges, teaches shape, colour and
grouping directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from inference_server.demo.shapes import COLORS, SHAPES
from training.pool import SceneBatch

_IGNORE = -1
_MOSTLY = 0.3
_HARDLY = 0.08
_BOX_SCALE = 8.0


@dataclass
class DenseTargets:
    """Targets of the tokens, for a grid of `T * T` tokens.

    Attributes:
        owner: `int64[B, T*T]`; 0 is background, `i + 1` is object `i`, -1 is ignored.
        shape: `int64[B, T*T]`; 0 is background, `i + 1` is shape `i`, -1 is ignored.
        color: `int64[B, T*T]`; 0 is background, `i + 1` is colour `i`, -1 is ignored.
        box: edges of the object relative to the token's centre, `float32[B, T*T, 4]`.
        cells: covered share of each sixteenth of the token, `float32[B, T*T, 16]`.
    """

    owner: Tensor
    shape: Tensor
    color: Tensor
    box: Tensor
    cells: Tensor

    def take(self, index: Tensor) -> DenseTargets:
        """Select images.

        Args:
            index: indices of images, `int64[N]`; may repeat.
        """
        parts = (self.owner, self.shape, self.color, self.box, self.cells)
        return DenseTargets(*(part[index] for part in parts))

    @classmethod
    def of(cls, batch: SceneBatch, tokens: int) -> DenseTargets:
        """Compute the targets of a batch.

        Args:
            batch: scenes.
            tokens: tokens per side.
        """
        count, side, _ = batch.ids.shape
        patch = side // tokens
        tiles = batch.ids.view(count, tokens, patch, tokens, patch).permute(0, 1, 3, 2, 4)
        one_hot = F.one_hot(tiles.flatten(3).flatten(1, 2), batch.shape.shape[1] + 1).float()
        share = one_hot.mean(dim=2)
        most, owner = share[..., 1:].max(dim=-1)
        label = torch.where(
            most > _MOSTLY, owner + 1, torch.where(1 - share[..., 0] < _HARDLY, 0, _IGNORE)
        )
        index = label.clamp(min=1) - 1
        shape = torch.where(label > 0, batch.shape.gather(1, index) + 1, label)
        color = torch.where(label > 0, batch.color.gather(1, index) + 1, label)
        line = (torch.arange(tokens, device=label.device) + 0.5) / tokens
        ys, xs = torch.meshgrid(line, line, indexing="ij")
        center = torch.stack([xs, ys, xs, ys], dim=-1).view(-1, 4)
        box = batch.boxes.gather(1, index[..., None].expand(-1, -1, 4)) - center
        cell = patch // 4
        cells = (tiles > 0).float().reshape(count, tokens**2, 4, cell, 4, cell).mean(dim=(3, 5))
        return cls(label, shape, color, box * _BOX_SCALE, cells.flatten(2))


class DenseHeads(nn.Module):
    """Linear heads on normalised tokens.

    Args:
        width: width of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.box = nn.Linear(width, 4)
        self.cells = nn.Linear(width, 16)

    def forward(self, tokens: Tensor, targets: DenseTargets) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of a batch.

        Args:
            tokens: tokens of the backbone, `float32[B, T*T, width]`.
            targets: targets of the tokens.

        Returns:
            Scalar loss, and accuracies and losses for the progress line by name.
        """
        x = self.norm(tokens)
        on_object = targets.shape > 0
        shape, color = self.shape(x), self.color(x)
        shape_loss = F.cross_entropy(shape.mT, targets.shape, ignore_index=_IGNORE)
        color_loss = F.cross_entropy(color.mT, targets.color, ignore_index=_IGNORE)
        box_loss = F.smooth_l1_loss(self.box(x)[on_object], targets.box[on_object])
        cell_loss = F.binary_cross_entropy_with_logits(self.cells(x), targets.cells)
        loss = 2 * shape_loss + color_loss + 2 * box_loss + cell_loss
        with torch.no_grad():
            right = (shape.argmax(-1) == targets.shape)[on_object].float().mean()
            right_color = (color.argmax(-1) == targets.color)[on_object].float().mean()
        return loss, {
            "shape": right.item(),
            "color": right_color.item(),
            "box": box_loss.item(),
            "cells": cell_loss.item(),
        }


class FusionHead(nn.Module):
    """Head that predicts for each DETR encoder token whether it lies on an object of the prompt.

    Dense supervision for the fusion of image and prompt, as `DenseHeads` is for the backbone.

    Args:
        width: width of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 5)

    def forward(self, encoded: Tensor, wanted: Tensor, targets: DenseTargets) -> Tensor:
        """Compute the loss of a batch of prompts.

        Args:
            encoded: tokens of the DETR encoder, `float32[N, T*T, width]`.
            wanted: objects that match each prompt, `bool[N, K]`.
            targets: targets of each prompt's image.

        Returns:
            Scalar loss.
        """
        output = self.linear(self.norm(encoded))
        asked = targets.owner >= 0
        meant = wanted.gather(1, targets.owner.clamp(min=1) - 1) & (targets.owner > 0)
        match = F.binary_cross_entropy_with_logits(
            output[..., 0][asked], meant[asked].float(), pos_weight=output.new_tensor(3.0)
        )
        if not meant.any():
            return match
        return match + 0.5 * F.smooth_l1_loss(output[..., 1:][meant], targets.box[meant])


class ExemplarHead(nn.Module):
    """Head that predicts the shape and colour of the object in an exemplar box from its token.

    Args:
        width: width of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(SHAPES) + len(COLORS))

    def forward(self, tokens: Tensor, shape: Tensor, color: Tensor) -> tuple[Tensor, float]:
        """Compute the loss of a batch of boxes.

        Args:
            tokens: tokens of the geometry encoder, `float32[N, width]`.
            shape: index into `SHAPES`, `int64[N]`.
            color: index into `COLORS`, `int64[N]`.

        Returns:
            Scalar loss, and the share of boxes with both right.
        """
        shapes, colors = self.linear(tokens).split([len(SHAPES), len(COLORS)], dim=1)
        loss = F.cross_entropy(shapes, shape) + F.cross_entropy(colors, color)
        right = (shapes.argmax(1) == shape) & (colors.argmax(1) == color)
        return loss, right.float().mean().item()
