"""SAM 2's image encoder (Hiera and its neck) for inference.

It uses the weights of `sam2`'s `ImageEncoder`, and its features equal that module's up to rounding.
What differs:

* Weights are converted to the dtype of the computation once, instead of in each call. On a CPU
  they are also reordered once for its matrix products.
* Tokens stay in an order in which each window is consecutive, so windows are views. Pooling within
  windows gives the order of the next stage. Cut-off windows are not padded: the keys and values
  that their padding would have are the biases, and are appended.
* On a CPU, the blocks of the first stages run on some thousand tokens at a time, from the first
  norm to the end of the MLP, so that nothing in between leaves the cache. Images of a batch run one
  after another for the same reason.
* GELU and the residual sums are part of the matrix products (oneDNN).
* The neck's convolutions, 1 x 1, are matrix products of tokens. Those of the two fine levels are
  multiplied with the decoder's convolutions `conv_s0` and `conv_s1`, which follow without anything
  in between: 256 channels become 32 or 64 before, not after, the product.
* Only what the decoder reads is computed, so no positional encodings of the levels.

Attention is in `engines/attention.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck
from torch import Tensor, nn

from inference_server.engines.attention import attention
from inference_server.engines.linear import Linear
from inference_server.engines.sam2.fast_neck import Neck
from inference_server.engines.sam2.window_order import WindowOrder, Windows

_TOKENS = 4096
"""Tokens of a chunk on a CPU: 3 MB in bfloat16 at the widest point of the first stage."""


class FastImageEncoder:
    """The image encoder up to what the mask decoder reads. Thread-safe.

    It has its own copy of the weights and holds no reference to modules, so that the model's can
    be freed.

    Args:
        model: SAM 2 with its weights, on the device, in evaluation mode.
        dtype: Dtype of the computation.

    Attributes:
        weight_bytes: Memory of the weights in bytes.

    Raises:
        UnsupportedEncoderError: The architecture has parts that this class does not know.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        encoder = model.image_encoder
        trunk = encoder.trunk
        _check(model)
        self._dtype = dtype
        patches = trunk.patch_embed.proj
        self._patch_weight = patches.weight.to(dtype, memory_format=torch.channels_last)
        self._stride, self._padding = patches.stride, patches.padding
        device = patches.weight.device
        self._one_by_one = device.type == "cpu"

        side = model.image_size // patches.stride[0]
        order = WindowOrder.of(side, side, trunk.window_spec[0])
        self._order = order.raster.to(device)
        positions = trunk._get_pos_embed((side, side))[0].flatten(0, 1)
        self._positions = (positions + patches.bias)[self._order].to(dtype)

        limit = _TOKENS if self._one_by_one else side * side
        self._blocks: list[_Block] = []
        levels: list[WindowOrder] = []
        for index, module in enumerate(trunk.blocks):
            try:
                block = _Block(module, order, dtype, limit)
            except ValueError as error:
                raise UnsupportedEncoderError(f"block {index}: {error}") from error
            self._blocks.append(block)
            order = block.order
            if index in trunk.stage_ends:
                levels.append(order)
        self._stage_ends = frozenset(trunk.stage_ends)
        self._neck = Neck(model, levels, dtype)
        parts = [part for block in self._blocks for part in (*block.linears, *block.norms)]
        self.weight_bytes = sum(
            part.nbytes
            for part in (self._patch_weight, self._positions, *parts, *self._neck.linears)
        )

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode a batch of images.

        Args:
            images: `float32[B, 3, S, S]`, normalised.

        Returns:
            The image embedding, `[B, C, h, w]`, and the high-resolution features, finest first:
            `[B, C / 8, 4 h, 4 w]` and `[B, C / 4, 2 h, 2 w]`, or none if the decoder uses none. All
            are in the dtype of the computation, channels last.
        """
        if not self._one_by_one or len(images) == 1:
            return self._encode(images)
        encoded = [self._encode(image[None]) for image in images]
        coarse = torch.cat([each for each, _ in encoded])
        fine = [torch.cat(level) for level in zip(*(each for _, each in encoded), strict=True)]
        return coarse, fine

    def _encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        pixels = images.to(self._dtype, memory_format=torch.channels_last)
        planes = F.conv2d(pixels, self._patch_weight, None, self._stride, self._padding)
        tokens = planes.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, self._order)
        tokens = tokens.add_(self._positions)
        levels: list[Tensor] = []
        for index, block in enumerate(self._blocks):
            tokens = block(tokens)
            if index in self._stage_ends:
                levels.append(tokens)
        return self._neck(levels)


class UnsupportedEncoderError(Exception):
    """The image encoder has an architecture that `FastImageEncoder` does not compute."""


def _check(model: Any) -> None:
    """Raise `UnsupportedEncoderError` if a part is not as in the published models."""
    encoder = model.image_encoder
    trunk, neck = encoder.trunk, encoder.neck
    if (type(trunk), type(neck)) != (Hiera, FpnNeck):
        raise UnsupportedEncoderError(f"{type(trunk).__name__} with {type(neck).__name__}")
    strides = [_stride(block) for block in trunk.blocks]
    broken = {
        "features of the last stage only": not trunk.return_interm_layers,
        "a stage that does not halve": sorted(strides)
        != [1] * (len(strides) - len(trunk.stage_ends) + 1) + [2] * (len(trunk.stage_ends) - 1),
        f"fuse_type {neck.fuse_type}": neck.fuse_type != "sum",
        f"fpn_interp_model {neck.fpn_interp_model}": neck.fpn_interp_model != "nearest",
        "neck convolutions other than 1 x 1": any(
            level.conv.kernel_size != (1, 1)
            or level.conv.stride != (1, 1)
            or level.conv.padding != (0, 0)
            for level in neck.convs
        ),
        "another number of levels": model.use_high_res_features_in_sam
        and len(neck.convs) - encoder.scalp != 3,
        "an activation other than GELU": any(
            type(block.mlp.act) is not nn.GELU or block.mlp.act.approximate != "none"
            for block in trunk.blocks
        ),
        "MLPs of other than two layers": any(
            len(block.mlp.layers) != 2 or block.mlp.sigmoid_output for block in trunk.blocks
        ),
    }
    found = [what for what, is_so in broken.items() if is_so]
    if found:
        raise UnsupportedEncoderError(", ".join(found))


def _stride(block: Any) -> int:
    """Stride of a block's pooling: 1 without; 0 if rows and columns differ."""
    if not block.q_stride:
        return 1
    rows, columns = block.q_stride
    return int(rows) if rows == columns else 0


def _linear(layer: nn.Linear, dtype: torch.dtype, *, gelu: bool = False) -> Linear:
    """A layer for inference."""
    return Linear(layer.weight, layer.bias, dtype, gelu=gelu)


class _Norm:
    """Layer norm; its sums are in float32 in any dtype."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        if norm.weight.device.type == "cpu":  # only CPUs take weights of another dtype
            dtype = torch.float32
        self._weight, self._bias = (
            each.detach().to(dtype, copy=True) for each in (norm.weight, norm.bias)
        )
        self._eps = norm.eps
        self.nbytes = self._weight.nbytes + self._bias.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, self._weight.shape, self._weight, self._bias, self._eps)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tokens that pass a block together.

    Attributes:
        read: Positions of the tokens before pooling.
        written: Their positions after it.
        windows: The windows, with `start` relative to `read`.
    """

    read: slice
    written: slice
    windows: tuple[Windows, ...]


class _Block:
    """One block of Hiera: attention and MLP.

    Args:
        block: `MultiScaleBlock` with its weights.
        order: Order of the tokens that come in.
        dtype: Dtype of the computation.
        limit: Maximum tokens of a chunk.

    Attributes:
        order: Order of the tokens that go out.
        linears: The linear layers.
        norms: The layer norms.

    Raises:
        ValueError: The windows cannot be pooled, or global attention is to pool.
    """

    def __init__(self, block: Any, order: WindowOrder, dtype: torch.dtype, limit: int) -> None:
        self._stride = _stride(block)
        self._global = block.window_size == 0
        if self._global and self._stride > 1:
            raise ValueError("global attention with pooling")
        self._permutation: Tensor | None = None
        if not self._global:
            wanted = WindowOrder.of(order.height, order.width, block.window_size)
            permutation = wanted.taken_from(order)
            order = wanted
            if permutation is not None:
                self._permutation = permutation.to(block.norm1.weight.device)
        self.order = order if self._stride == 1 else order.pooled(self._stride)
        tokens = order.height * order.width
        self._chunks = _chunks(order.windows, self._stride, tokens if self._global else limit)
        self._tokens_out = tokens // self._stride**2

        self._heads: int = block.attn.num_heads
        self._norm1, self._norm2 = _Norm(block.norm1, dtype), _Norm(block.norm2, dtype)
        self.norms = [self._norm1, self._norm2]
        self._qkv = _linear(block.attn.qkv, dtype)
        self._out = _linear(block.attn.proj, dtype)
        self._shortcut = None if block.dim == block.dim_out else _linear(block.proj, dtype)
        self._up = _linear(block.mlp.layers[0], dtype, gelu=True)
        self._down = _linear(block.mlp.layers[1], dtype)
        self._width: int = block.dim_out // self._heads
        every = (self._qkv, self._out, self._shortcut, self._up, self._down)
        self.linears = [linear for linear in every if linear is not None]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Map `[B, N, C]`, in the order of the previous block, to `[B, N', C']`."""
        if self._permutation is not None:
            tokens = tokens.index_select(1, self._permutation)
        if len(self._chunks) == 1:
            return self._run(tokens, self._chunks[0])
        batch = len(tokens)
        result = tokens.new_empty(batch, self._tokens_out, self._heads * self._width)
        for chunk in self._chunks:
            result[:, chunk.written] = self._run(tokens[:, chunk.read], chunk)
        return result

    def _run(self, tokens: Tensor, chunk: _Chunk) -> Tensor:
        """Run the block for one chunk."""
        normed = self._norm1(tokens)
        qkv = self._qkv(normed)
        if self._global:
            attended = self._attend(*self._split(qkv, 1))
        else:
            parts = [self._attend_windows(qkv[:, each.tokens], each) for each in chunk.windows]
            attended = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        if self._shortcut is not None:
            tokens = self._pool(self._shortcut(normed), chunk)
        tokens = self._out.plus(attended, tokens)
        return self._down.plus(self._up(self._norm2(tokens)), tokens)

    def _split(self, qkv: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Split `[B, n * t, 3 * H * c]` into queries, keys and values, `[B * n, H, t, c]`."""
        parts = qkv.reshape(len(qkv) * count, -1, 3, self._heads, self._width)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
        return q, k, v

    def _attend_windows(self, qkv: Tensor, windows: Windows) -> Tensor:
        """Attention within windows; `[B, n * t, 3 C]` to `[B, n * t', C]`."""
        q, k, v = self._split(qkv, windows.count)
        if windows.missing:
            bias: Any = self._qkv.bias
            _, key, value = bias.view(3, 1, self._heads, 1, self._width).unbind()
            padding = (len(k), -1, windows.missing, -1)
            k = torch.cat([k, key.expand(*padding)], 2)
            v = torch.cat([v, value.expand(*padding)], 2)
        if self._stride > 1:
            rows = q.transpose(1, 2).flatten(2)
            pooled = _pooled(rows, windows, self._stride)
            q = pooled.view(*pooled.shape[:2], self._heads, -1).transpose(1, 2)
        return self._attend(q, k, v).view(len(qkv), -1, self._heads * self._width)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention; `[B, H, N, c]` to `[B, N, H * c]`."""
        return attention(q, k, v, self._width**-0.5).transpose(1, 2).flatten(2)

    def _pool(self, rows: Tensor, chunk: _Chunk) -> Tensor:
        """Pool the tokens of a chunk, `[B, N, C]`, within their windows."""
        if self._stride == 1:
            return rows
        batch = len(rows)
        parts = [
            _pooled(
                rows[:, each.tokens].reshape(batch * each.count, each.each, -1), each, self._stride
            ).view(batch, -1, rows.shape[-1])
            for each in chunk.windows
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _pooled(rows: Tensor, windows: Windows, stride: int) -> Tensor:
    """Maxima of `stride` x `stride` tokens, `[n, t, C]` to `[n, t / stride ** 2, C]`."""
    height, width = windows.height // stride, windows.width // stride
    grid = rows.view(len(rows), height, stride, width, stride, -1)
    result = grid[:, :, 0, :, 0]
    for row in range(stride):
        for column in range(stride):
            if row or column:
                result = torch.maximum(result, grid[:, :, row, :, column])
    return result.flatten(1, 2)


def _chunks(windows: tuple[Windows, ...], stride: int, limit: int) -> list[_Chunk]:
    """Put windows into chunks of at most `limit` tokens, but at least one window."""
    chunks: list[list[Windows]] = [[]]
    taken = 0
    for part in (part for each in windows for part in each.split(limit)):
        size = part.count * part.each
        if taken and taken + size > limit:
            chunks.append([])
            taken = 0
        chunks[-1].append(part)
        taken += size
    result = []
    for parts in chunks:
        start, stop = parts[0].tokens.start, parts[-1].tokens.stop
        relative = tuple(
            Windows(part.start - start, part.count, part.height, part.width, part.missing)
            for part in parts
        )
        area = stride**2
        result.append(_Chunk(slice(start, stop), slice(start // area, stop // area), relative))
    return result
