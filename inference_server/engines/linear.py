"""Linear layers for inference, with GELU or a sum as a part of the matrix product on a CPU.

On a CPU they are oneDNN's fused products, as PyTorch's own compiler uses them: 2 to 15 % faster
than `F.linear` for many rows. Weights of another dtype than the layer's are reordered for them
once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor, nn

_ROWS = 4096
"""Rows that the order of the weights is chosen for; other numbers work as well."""


class Linear:
    """A linear layer with weights in the dtype of the computation.

    Args:
        weight: `[out, in]`.
        bias: `[out]`.
        dtype: Dtype of the computation.

    Attributes:
        bias: `[out]`.
        nbytes: Memory of the weights in bytes.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self._weight, self.bias = weight.to(dtype), bias.to(dtype)
        self.nbytes = self._weight.nbytes + self.bias.nbytes
        self._fused = weight.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        if self._fused and self._weight is not weight:
            # In float32 this would be a second copy.
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _ROWS)

    @classmethod
    def of(cls, layer: nn.Linear, dtype: torch.dtype) -> Linear:
        """Convert a layer.

        Args:
            layer: Layer with its weights.
            dtype: Dtype of the computation.
        """
        return cls(layer.weight.detach(), layer.bias.detach(), dtype)

    def __call__(self, rows: Tensor, *, gelu: bool = False) -> Tensor:
        """Apply the layer.

        Args:
            rows: `[..., in]`.
            gelu: Apply GELU to the result. Default: no.

        Returns:
            `[..., out]`.
        """
        if self._fused:
            name, algorithm = ("gelu", "none") if gelu else ("none", "")
            result: Tensor = torch.ops.mkldnn._linear_pointwise(
                rows, self._weight, self.bias, name, [], algorithm
            )
            return result
        result = F.linear(rows, self._weight, self.bias)
        return torch.ops.aten.gelu_(result) if gelu else result

    def plus(self, rows: Tensor, other: Tensor) -> Tensor:
        """Apply the layer and add something.

        Args:
            rows: `[..., in]`.
            other: `[..., out]`, added to the result.

        Returns:
            `[..., out]`.
        """
        if self._fused:
            result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                rows, other, self._weight, self.bias, "add"
            )
            return result
        return F.linear(rows, self._weight, self.bias).add_(other)
