"""Layers of the mask decoder, for inference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor, nn

from inference_server.engines.linear import Linear


def products(rows: Tensor, pixels: Tensor) -> Tensor:
    """Multiply rows with every pixel.

    For a single prompt the operands change places: otherwise oneDNN first copies the transposed
    pixels, which takes longer than the product. Batches are computed without that copy.

    Args:
        rows: `[B, R, C]`.
        pixels: `[B, N, C]`.

    Returns:
        `[B, R, N]`.
    """
    if len(pixels) == 1:
        return (pixels @ rows.transpose(1, 2)).transpose(1, 2)
    return rows @ pixels.transpose(1, 2)


class TokenMlp:
    """The MLP of the tokens, with weights that were laid out once.

    With few tokens, reading the weights takes most of its time, so bfloat16 halves it.

    Args:
        mlp: SAM 2's `MLP`.
        dtype: Dtype of the weights.
    """

    def __init__(self, mlp: Any, dtype: torch.dtype) -> None:
        self._layers = [Linear(each.weight, each.bias, dtype) for each in mlp.layers]
        self._act = mlp.act
        self._dtype = dtype

    def __call__(self, tokens: Tensor) -> Tensor:
        """Apply it to `float32[B, T, C]`."""
        *hidden, last = self._layers
        rows = tokens.to(self._dtype)
        for layer in hidden:
            rows = self._act(layer(rows))
        return last(rows).to(tokens.dtype)


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer norm over the last dimension, with weights in the dtype of its input.

    Attributes:
        weight: `[C]`.
        bias: `[C]`.
        eps: Added to the variance.
    """

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.Module, dtype: torch.dtype) -> Norm:
        """Convert an `nn.LayerNorm`, or SAM 2's `LayerNorm2d`, which expects channels first.

        Args:
            norm: The module.
            dtype: Dtype of the weights.
        """
        eps: Any = norm.eps
        weight: Any = norm.weight
        bias: Any = norm.bias
        return cls(weight.to(dtype), bias.to(dtype), float(eps))

    def __call__(self, rows: Tensor) -> Tensor:
        """Normalise `[..., C]`."""
        return F.layer_norm(rows, self.weight.shape, self.weight, self.bias, self.eps)


def in_place(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return an activation that overwrites its input, which saves 8 MB of memory traffic a prompt.

    Args:
        activation: The activation.
    """
    if isinstance(activation, nn.GELU):
        approximate = activation.approximate
        return lambda rows: torch.ops.aten.gelu_(rows, approximate=approximate)
    return activation
