"""Orders of pixels in tensors: planes, rows of channels, and the nested order.

In the nested order, a pixel is followed by the pixels of its 2 x 2 parts at twice the resolution.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def rows_of(planes: Tensor) -> Tensor:
    """Reorder `[B, C, h, w]` to `[B, h * w, C]`."""
    return planes.flatten(2).transpose(1, 2)


def in_raster_order(logits: Tensor) -> Tensor:
    """Reorder `[M, N, 16]` in nested order to `[M, 4 h, 4 w]`."""
    masks, count, _ = logits.shape
    side = math.isqrt(count)  # SAM 2's input is square
    # Axes: mask, row, column, row of 2, column of 2, row of 2, column of 2.
    parts = logits.reshape(masks, side, side, 2, 2, 2, 2)
    return parts.permute(0, 1, 3, 5, 2, 4, 6).reshape(masks, 4 * side, 4 * side)


def as_product(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Convert a 2 x 2 transposed convolution of stride 2 to a matrix `[in, 4 * out]` and a bias."""
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return weight.to(dtype).contiguous(), layer.bias.repeat(4)


def nested(planes: Tensor, levels: int) -> Tensor:
    """Reorder `[B, C, h * 2**levels, w * 2**levels]` to `[B, h * w * 4**(levels - 1), 4 * C]`.

    Rows are the coarse pixels, each followed by its 2 x 2 parts, level by level; the parts of the
    last level are part of the last dimension, before the channels.
    """
    batch, channels, height, width = planes.shape
    twos = [2] * levels
    split = planes.view(
        batch, channels, height >> levels, *twos, width >> levels, *twos
    )  # [B, C, h, 2.., w, 2..]
    rows = list(range(2, 3 + levels))
    columns = list(range(3 + levels, 4 + 2 * levels))
    order = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return split.permute(0, *order, 1).reshape(batch, -1, 4 * channels)
