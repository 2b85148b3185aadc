"""SAM 3's image encoder, `Sam3ViTModel`, reordered for inference.

It uses the weights of the unmodified class, and its results equal those of its `forward` up to
rounding; in bfloat16 those of its `forward` under autocast. The order of operations differs:

* Weights are cast once; autocast casts them at every call. Queries, keys and values are one
  product. See `Linear` for their layout and for GELU.
* Tokens are ordered by window from the patches on, and put into rows at the end: no layer moves
  them into windows and back. Layers that attend globally have their rotary codes in that order.
* Rotary codes are computed once, as complex numbers; those of the queries include the scale.
* Norms and the sum of the layers stay in float32, as under autocast.
* The MLP runs on some rows at a time, so that its hidden layer stays small.
* On a CPU in bfloat16, attention over the whole image is matrix products with scores in float32
  (`exact_attention`): 4 to 7 % of an encode at the published size (measured alternately).

Attention as matrix products (`engines.attention`) rounds the scores to bfloat16: with the demo's
weights the error of the features is up to 1.5 times that of autocast, while it is the same
otherwise (`tests/engines/sam3/test_fast_vit.py`). So it is an option, which is off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor, nn

from inference_server.engines.attention import attention, exact_attention
from inference_server.engines.linear import Linear

MLP_ROWS = 1296
"""Default number of tokens per call of an MLP on a CPU."""


@dataclass(frozen=True, slots=True)
class _Norm:
    """Layer normalisation in float32."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: Any) -> _Norm:
        """Copy the weights of a module."""
        return cls(
            norm.weight.detach().float().clone(), norm.bias.detach().float().clone(), norm.eps
        )

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + self.bias.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights; `is_global` if its tokens attend to those of all windows."""

    is_global: bool
    norm1: _Norm
    qkv: Linear
    out: Linear
    norm2: _Norm
    fc1: Linear
    fc2: Linear
    activation: Any

    @property
    def nbytes(self) -> int:
        parts = (self.norm1, self.qkv, self.out, self.norm2, self.fc1, self.fc2)
        return sum(part.nbytes for part in parts)


class FastViT:
    """SAM 3's image encoder for inference, on square images of the configured size. Thread-safe.

    Args:
        backbone: `Sam3ViTModel` with its weights, on the device, in evaluation mode.
        dtype: Dtype of products. Norms and the sum of the layers stay in float32.
        release: Whether to free the module's parameters, which are empty afterwards, so that
            weights are in memory once. The default keeps them.
        mlp_rows: Tokens per call of an MLP on a CPU; default 1296. On a GPU all at once.
        products: Whether attention in bfloat16 on a CPU is matrix products, which is faster and
            less exact; default no.

    Attributes:
        nbytes: Memory of the weights in bytes.

    Raises:
        ValueError: Another instance has freed the module's parameters.
    """

    def __init__(
        self,
        backbone: Any,
        dtype: torch.dtype,
        *,
        release: bool = False,
        mlp_rows: int = MLP_ROWS,
        products: bool = False,
    ) -> None:
        config: Any = backbone.config
        if any(not parameter.numel() for parameter in backbone.parameters()):
            raise ValueError("the image encoder's weights were freed by another FastViT")
        self._dtype = dtype
        self._mlp_rows = mlp_rows
        self._products = products
        self._patch: int = config.patch_size
        self._side = _side_of(config.image_size) // self._patch
        self._heads: int = config.num_attention_heads
        device = backbone.layer_norm.weight.device
        windows = {layer.window_size for layer in backbone.layers} - {0}
        self._window: int = max(windows, default=self._side)
        order, real = _by_window(self._side, self._window)
        self._order = order.to(device)
        has_padding = len(order) > self._side**2
        self._real = torch.arange(len(order))[real].to(device) if has_padding else None
        self._places = torch.empty(self._side**2, dtype=torch.int64, device=device)
        self._places[order[real].to(device)] = torch.arange(len(order))[real].to(device)

        codes: dict[bool, Tensor] = {}
        for layer in backbone.layers:
            if (is_global := layer.window_size == 0) not in codes:
                own = _rotary_codes(layer)
                codes[is_global] = own[order[real].to(device)] if is_global else own
        scale: float = backbone.layers[0].attention.scaling
        self._codes = {key: (own * scale, own) for key, own in codes.items()}

        projection = backbone.embeddings.patch_embeddings.projection
        self._patches = Linear(projection.weight.flatten(1), projection.bias, dtype)
        tiled: Tensor = backbone.embeddings._tile_position_embeddings(
            backbone.embeddings.position_embeddings.detach(), self._side, self._side
        )
        self._positions = tiled[0].float()[self._order]
        self._norm = _Norm.of(backbone.layer_norm)
        self._layers: list[_Layer] = []
        for layer in backbone.layers:
            self._layers.append(_layer_of(layer, dtype))
            if release:  # one by one, so that loading takes no more memory than one layer
                _free(layer)
        if release:
            _free(backbone)
        parts: tuple[Any, ...] = (self._patches, self._positions, self._norm, *self._layers)
        self.nbytes = sum(part.nbytes for part in parts)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixels: `float32[B, 3, S, S]`, normalised, of the configured size.

        Returns:
            The last hidden state, `float32[B, h * w, D]`.

        Raises:
            ValueError: The images have another size.
        """
        batch, colors, height, width = pixels.shape
        side, patch = self._side, self._patch
        if height // patch != side or width // patch != side:
            raise ValueError(f"images of {height} x {width} are not of the encoder's size")
        pixels = pixels[..., : side * patch, : side * patch].to(self._dtype)
        patches = (
            pixels.reshape(batch, colors, side, patch, side, patch)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(batch, side * side, colors * patch * patch)
        )
        rows = patches[:, self._order].flatten(0, 1)
        tokens = self._patches(rows).view(batch, len(self._order), -1) + self._positions
        tokens = self._norm(tokens)
        for layer in self._layers:
            self._add_attention(layer, tokens)
            self._add_mlp(layer, tokens.view(-1, tokens.shape[2]))
        return tokens[:, self._places]

    def _add_attention(self, layer: _Layer, tokens: Tensor) -> None:
        """A layer's attention, added to the tokens `[B, T, C]` in place."""
        batch, _, channels = tokens.shape
        hidden = layer.norm1(tokens).to(self._dtype)
        groups, real = batch, self._real
        if layer.is_global:
            if real is not None:
                hidden = hidden[:, real]
        else:
            groups = batch * (tokens.shape[1] // self._window**2)
            if real is not None:  # padding has no content, but it is attended to
                padded = torch.zeros_like(hidden)
                padded[:, real] = hidden[:, real]
                hidden = padded
        parts = layer.qkv(hidden.view(-1, channels)).view(
            groups, -1, 3, self._heads, channels // self._heads
        )
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        of_queries, of_keys = self._codes[layer.is_global]
        found = self._attend(_rotated(queries, of_queries), _rotated(keys, of_keys), values)
        added = layer.out(found.transpose(1, 2).reshape(-1, channels)).view(batch, -1, channels)
        if layer.is_global and real is not None:
            tokens[:, real] += added
        else:
            tokens += added

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of scaled queries, each `[G, heads, n, c]`."""
        if self._products:
            return attention(queries, keys, values, 1.0)
        return exact_attention(queries, keys, values)

    def _add_mlp(self, layer: _Layer, tokens: Tensor) -> None:
        """A layer's MLP, added to the tokens `[N, C]` in place."""
        step = self._mlp_rows if tokens.device.type == "cpu" else len(tokens)
        for start in range(0, len(tokens), step):
            part = tokens[start : start + step]
            hidden = layer.fc1(layer.norm2(part).to(self._dtype))
            if layer.activation is not None:
                hidden = layer.activation(hidden)
            part += layer.fc2(hidden)


def _layer_of(layer: Any, dtype: torch.dtype) -> _Layer:
    """Copy a layer's weights."""
    attention, mlp = layer.attention, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    is_gelu = layer.config.hidden_act == "gelu"
    return _Layer(
        layer.window_size == 0,
        _Norm.of(layer.layer_norm1),
        Linear(
            torch.cat([each.weight.detach().to(dtype) for each in projections]),
            torch.cat([each.bias.detach().to(dtype) for each in projections]),
            dtype,
        ),
        Linear(attention.o_proj.weight, attention.o_proj.bias, dtype),
        _Norm.of(layer.layer_norm2),
        Linear(mlp.fc1.weight, mlp.fc1.bias, dtype, gelu=is_gelu),
        Linear(mlp.fc2.weight, mlp.fc2.bias, dtype),
        None if is_gelu else mlp.activation_fn,
    )


def _free(module: nn.Module) -> None:
    """Replace all parameters by empty ones: using the module by mistake raises an error."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            empty = nn.Parameter(parameter.new_empty(0), requires_grad=False)
            setattr(part, name, empty)


def _side_of(size: int | list[int] | tuple[int, ...]) -> int:
    """Side of a square image in pixels, from a configuration's `image_size`."""
    return size if isinstance(size, int) else size[0]


def _rotary_codes(layer: Any) -> Tensor:
    """A layer's rotary position codes, `complex64[n, c / 2]`."""
    cosine, sine = layer.rotary_emb(layer.position_ids, layer.position_ids)
    return torch.complex(cosine[0, :, ::2].float(), sine[0, :, ::2].float())


def _rotated(rows: Tensor, codes: Tensor) -> Tensor:
    """Rotate pairs of values, `[..., n, c]`, by codes `complex64[n, c / 2]`."""
    pairs = torch.view_as_complex(rows.float().reshape(*rows.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * codes).flatten(-2).to(rows.dtype)


def _by_window(side: int, window: int) -> tuple[Tensor, Tensor]:
    """Order the tokens of a square by window.

    Args:
        side: Tokens per side of the image.
        window: Tokens per side of a window. The image is padded below and on the right.

    Returns:
        `int64[T]`, the token at each place in the order of rows, 0 at padding; and `bool[T]`, the
        places that are not padding.
    """
    count = math.ceil(side / window)
    line = torch.arange(count * window)
    order = line[:, None] * side + line
    real = (line[:, None] < side) & (line < side)
    order, real = (
        each.view(count, window, count, window).transpose(1, 2).reshape(-1)
        for each in (order.where(real, 0), real)
    )
    return order, real
