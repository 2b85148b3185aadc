"""The neck (FPN) of SAM 2's image encoder as matrix products of tokens, for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inference_server.engines.linear import Linear
from inference_server.engines.sam2.window_order import WindowOrder


class Neck:
    """The neck (FPN), and the decoder's convolutions of the fine levels.

    Args:
        model: SAM 2 with its weights.
        orders: Orders of the tokens of all levels, finest first.
        dtype: Dtype of the computation.

    Attributes:
        linears: The linear layers.
    """

    def __init__(self, model: Any, orders: list[WindowOrder], dtype: torch.dtype) -> None:
        encoder = model.image_encoder
        neck, decoder = encoder.neck, model.sam_mask_decoder
        device = decoder.iou_token.weight.device
        count = len(orders)
        self._coarse = count - 1 - encoder.scalp
        self._top_down = frozenset(neck.fpn_top_down_levels) - {count - 1}
        self._parents = {
            level: orders[level].parents(orders[level + 1]).to(device) for level in self._top_down
        }
        skips = [decoder.conv_s0, decoder.conv_s1] if model.use_high_res_features_in_sam else []
        self._skips: list[Linear] = []
        self._skips_above: list[Linear] = []
        convolutions = [_matrix(level.conv) for level in reversed(neck.convs)]
        for skip, (weight, bias) in zip(skips, convolutions, strict=False):
            above, offset = _matrix(skip)
            self._skips.append(Linear(above @ weight, above @ bias + offset, dtype))
            self._skips_above.append(Linear(above, torch.zeros_like(offset), dtype))
        # Levels whose 256 channels are needed: the coarse one, and those that others are added to.
        finest = 0 if skips else self._coarse
        self._needed = {self._coarse}
        for level in sorted(self._top_down):
            if level >= finest and (level in self._needed or level < len(skips)):
                self._needed.add(level + 1)
        self._convolutions: dict[int, Linear] = {}
        for level in sorted(self._needed):
            weight, bias = convolutions[level]
            self._convolutions[level] = Linear(weight, bias, dtype)
        self.linears = [*self._convolutions.values(), *self._skips, *self._skips_above]
        self._rasters = [
            (order.positions().to(device), order.height, order.width)
            for order in orders[: self._coarse + 1]
        ]

    def __call__(self, tokens: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Merge the levels.

        Args:
            tokens: Tokens of all stages, `[B, N, C]`, finest first.

        Returns:
            See `FastImageEncoder.__call__`.
        """
        merged: dict[int, Tensor] = {}
        for level in sorted(self._needed, reverse=True):
            rows = tokens[level]
            if level in self._top_down:
                above = merged[level + 1].index_select(1, self._parents[level])
                merged[level] = self._convolutions[level].plus(rows, above)
            else:
                merged[level] = self._convolutions[level](rows)
        fine = []
        for level, (skip, skip_above) in enumerate(
            zip(self._skips, self._skips_above, strict=True)
        ):
            if level in self._top_down:
                above = skip_above(merged[level + 1]).index_select(1, self._parents[level])
                fine.append(self._planes(skip.plus(tokens[level], above), level))
            else:
                fine.append(self._planes(skip(tokens[level]), level))
        return self._planes(merged[self._coarse], self._coarse), fine

    def _planes(self, rows: Tensor, level: int) -> Tensor:
        """Reorder tokens `[B, N, C]` to planes `[B, C, h, w]`, channels last."""
        positions, height, width = self._rasters[level]
        raster = rows.index_select(1, positions)
        return raster.view(len(rows), height, width, -1).permute(0, 3, 1, 2)


def _matrix(convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight `[out, in]` and bias of a 1 x 1 convolution."""
    assert convolution.bias is not None  # noqa: S101 - SAM 2's have one
    return convolution.weight.detach()[:, :, 0, 0], convolution.bias.detach()
