"""SAM 2's mask decoder, arranged so that a prompt pays only for itself.

The arithmetic is that of `sam2.modeling.sam.mask_decoder.MaskDecoder`, with its weights, and the
answers agree to rounding. It is done in another order:

* What does not depend on the prompt belongs to the image and is done once: the first layer's keys,
  values and queries of the image, and the high-resolution features, laid out as they are used.
* Few tokens meet many pixels. Where `N` pixels attend to `T` tokens or are attended to,
  `(x Wk) q'` is taken as `x (Wk q')`: a product of `[N, C]` with one column a head and token
  instead of with a square matrix. With T = 8 this halves the work, and it is the greater part of
  all (associativity of matrix products; values and outputs likewise).
* Pixels stay in rows of channels. The 2 x 2 transposed convolutions are products of matrices
  whose results are left in nested order, `[h, w, 2, 2]`, in which layer norm, GELU and the next
  product do not care; only finished mask planes are put in raster order.
* The best of three masks is chosen, and masks of too low a predicted IoU are dropped, before the
  planes are made; a prompt that has none left is not upscaled.

Measured for one click on two cores: 3.4 to 4.4 times faster than the original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from torch import Tensor, nn

from inference_server.engines.features import Features


@dataclass(frozen=True, slots=True)
class DecoderImage(Features):
    """What the decoder has to know of `B` images; `N = h * w` pixels of the coarsest level.

    Attributes:
        pixels: `[B, N, C]`, embedding of the image plus that of "no mask input".
        keys: `[B, heads, c, N]`, of the first layer's attention from tokens to pixels.
        values: `[B, heads, N, c]`, of the same.
        queries: `[B, heads, N, c]`, of the first layer's attention from pixels to tokens, scaled.
        middle: `[B, N, 4 * C / 4]`, features of twice the resolution in nested order.
        fine: `[B, 4 * N, 4 * C / 8]`, features of four times the resolution in nested order.
    """

    pixels: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    middle: Tensor
    fine: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the attributes."""
        return (self.pixels, self.keys, self.values, self.queries, self.middle, self.fine)

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> DecoderImage:
        """From tensors in that order."""
        return cls(*tensors)

    @staticmethod
    def stack(images: Sequence[DecoderImage]) -> DecoderImage:
        """A batch of batches; a copy."""
        columns = zip(*(image.tensors for image in images), strict=True)
        return DecoderImage(*(torch.cat(column) for column in columns))


class FastMaskDecoder:
    """A mask decoder for inference. May be used from several threads at a time.

    Args:
        decoder: `MaskDecoder` with its weights.
        prompt_encoder: its `PromptEncoder`.
        dtype: of everything that is as large as the image. Tokens are few and stay in float32.
    """

    def __init__(self, decoder: Any, prompt_encoder: Any, dtype: torch.dtype) -> None:
        transformer = decoder.transformer
        self._decoder = decoder
        self._layers = list(transformer.layers)
        self._final = transformer.final_attn_token_to_image
        self._final_norm = transformer.norm_final_attn
        self._heads: int = transformer.num_heads
        self._dtype = dtype
        self._no_mask = prompt_encoder.no_mask_embed.weight
        self._positions = _rows(prompt_encoder.get_dense_pe())[0].to(dtype)
        self._norms = [_Norm.of(layer.norm4, dtype) for layer in self._layers]

        first = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        if decoder.pred_obj_scores:
            first.insert(0, decoder.obj_score_token.weight)
        self._output_tokens = torch.cat(first)
        self._iou_token = len(self._output_tokens) - 1 - decoder.num_mask_tokens

        up1, norm, activation1, up2, activation2 = decoder.output_upscaling
        self._activation1, self._activation2 = _in_place(activation1), _in_place(activation2)
        self._up1, self._up1_bias = _as_product(up1, dtype)
        self._up2, self._up2_bias = _as_product(up2, dtype)
        self._up_norm = _Norm.of(norm, dtype)
        heads = decoder.output_hypernetworks_mlps
        self._hyper = [
            (
                torch.stack([head.layers[i].weight.T for head in heads]),
                torch.stack([head.layers[i].bias for head in heads])[:, None],
            )
            for i in range(heads[0].num_layers)
        ]

    def prepare(self, coarse: Tensor, high_resolution: list[Tensor]) -> DecoderImage:
        """Do once for an image what no prompt changes.

        Args:
            coarse: `[B, C, h, w]`, the image embedding.
            high_resolution: `[B, C / 8, 4 h, 4 w]` and `[B, C / 4, 2 h, 2 w]` features, finest
                first; empty if the decoder uses none.

        Returns:
            `B` images in the decoder's dtype.
        """
        batch = coarse.shape[0]
        pixels = _rows(coarse) + self._no_mask
        placed = pixels + self._positions
        layer = self._layers[0]
        attention = layer.cross_attn_token_to_image
        queries = self._separate(layer.cross_attn_image_to_token.q_proj(placed))
        middle, fine = self._up1_bias, self._up2_bias
        if high_resolution:
            middle = middle + _nested(high_resolution[1], 1)
            fine = fine + _nested(high_resolution[0], 2)
        count = pixels.shape[1]
        parts = (
            pixels,
            self._separate(attention.k_proj(placed)).transpose(2, 3),
            self._separate(attention.v_proj(pixels)),
            queries * queries.shape[-1] ** -0.5,
            middle.expand(batch, count, -1),
            fine.expand(batch, 4 * count, -1),
        )
        return DecoderImage(*(part.to(self._dtype).contiguous() for part in parts))

    def __call__(
        self,
        image: DecoderImage,
        sparse: Tensor,
        dense: Tensor | None,
        *,
        multimask: bool,
        best: bool,
        least: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Masks of prompts.

        Args:
            image: a batch of B images, or of 1 that all prompts are about.
            sparse: `float32[B, K, C]`, embedded points and boxes.
            dense: `float32[B, C, h, w]`, embedded mask inputs; None where there are none.
            multimask: three masks a prompt, otherwise one.
            best: of the three, only the one with the highest predicted IoU.
            least: `float32[B]`, what a mask's predicted IoU has to exceed; None for all masks.

        Returns:
            (`float32[M, 4 h, 4 w]` logits, `float32[M]` predicted IoU, how many each prompt has).
        """
        batch = sparse.shape[0]
        tokens = torch.cat([self._output_tokens.expand(batch, -1, -1), sparse], dim=1)
        hidden, pixels = self._transform(image, tokens, dense)

        quality = self._decoder.iou_prediction_head(hidden[:, self._iou_token])
        hyper = self._hypernetworks(hidden[:, self._iou_token + 1 :])
        by_stability = not multimask and self._decoder.dynamic_multimask_via_stability
        single, three = (quality[:, :1], hyper[:, :1]), (quality[:, 1:], hyper[:, 1:])
        if by_stability:  # the single mask, or the best of three where it is not stable
            one, other = single, _best(*three)
            quality, hyper = torch.cat([one[0], other[0]], 1), torch.cat([one[1], other[1]], 1)
        elif multimask:
            quality, hyper = _best(*three) if best else three
        else:
            quality, hyper = single

        parts: list[Tensor] = [image.middle, image.fine, pixels, hyper]
        if by_stability:  # seen in the planes, so that the threshold comes after them
            logits, quality = self._decoder._dynamic_multimask_via_stability(
                self._logits(*parts), quality
            )
        if least is None:
            logits = logits if by_stability else self._logits(*parts)
            counts = [quality.shape[1]] * batch
            return _in_raster_order(logits.flatten(0, 1)), quality.flatten(), counts

        kept = (quality > least[:, None]).cpu()  # the only wait for the device
        prompts, masks = (index.to(quality.device) for index in kept.nonzero(as_tuple=True))
        rows = prompts
        if not by_stability:
            upscaled = kept.any(1)
            if not upscaled.all():
                some = upscaled.nonzero()[:, 0].to(quality.device)
                # One image that all prompts are about serves some of them as well.
                parts = [part[some] if len(part) == batch else part for part in parts]
                rows = (upscaled.cumsum(0) - 1).to(quality.device)[prompts]
            logits = self._logits(*parts)
        chosen = _in_raster_order(logits[rows, masks])
        return chosen, quality[prompts, masks], kept.sum(1).tolist()

    def _transform(
        self, image: DecoderImage, tokens: Tensor, dense: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The two-way transformer: `[B, T, C]` tokens and `[B, N, C]` pixels."""
        batch, count, _ = tokens.shape
        pixels = image.pixels.expand(batch, -1, -1)
        placed: Tensor | None = None
        if dense is not None:
            pixels = pixels + (_rows(dense) - self._no_mask).to(self._dtype)
            placed = pixels + self._positions
        hidden = tokens
        for index, (layer, norm) in enumerate(zip(self._layers, self._norms, strict=True)):
            if layer.skip_first_layer_pe:
                hidden = layer.self_attn(hidden, hidden, hidden)
            else:
                at = hidden + tokens
                hidden = hidden + layer.self_attn(at, at, hidden)
            hidden = layer.norm1(hidden)

            attention = layer.cross_attn_token_to_image
            if placed is None:
                found = self._attend_known(attention, hidden + tokens, image)
            else:
                found = self._attend(attention, hidden + tokens, pixels, placed)
            hidden = layer.norm2(hidden + found)
            hidden = layer.norm3(hidden + layer.mlp(hidden))

            attention = layer.cross_attn_image_to_token
            keys = self._separate(attention.k_proj(hidden + tokens))
            if placed is None:
                scores = keys.to(self._dtype) @ image.queries.transpose(-1, -2)
            else:
                scores = self._scores_of_pixels(attention, keys, placed)
            # In [heads, T, N] the softmax runs along whole rows of N: several times faster than
            # over a last dimension of T = 8.
            shares = scores.softmax(dim=2).view(batch, self._heads * count, -1)
            outputs = self._token_outputs(attention, hidden).to(self._dtype)
            if index and dense is None:
                pixels = pixels.baddbmm_(shares.transpose(1, 2), outputs)
            else:  # not in place: the first ones are the image's own
                pixels = torch.baddbmm(pixels, shares.transpose(1, 2), outputs)
            pixels = norm(pixels)
            placed = pixels + self._positions
        assert placed is not None  # noqa: S101 - there is at least one layer
        found = self._attend(self._final, hidden + tokens, pixels, placed)
        return self._final_norm(hidden + found), pixels

    def _separate(self, rows: Tensor) -> Tensor:
        """`[B, n, heads * c]` to `[B, heads, n, c]`."""
        batch, count, _ = rows.shape
        return rows.view(batch, count, self._heads, -1).transpose(1, 2)

    def _attend_known(self, attention: Any, tokens: Tensor, image: DecoderImage) -> Tensor:
        """Tokens attend to pixels whose keys and values belong to the image."""
        queries = self._separate(attention.q_proj(tokens))
        queries = (queries * queries.shape[-1] ** -0.5).to(self._dtype)
        shares = (queries @ image.keys).softmax(dim=-1)
        found = (shares @ image.values).to(tokens.dtype)
        answer: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
        return answer

    def _attend(self, attention: Any, tokens: Tensor, pixels: Tensor, placed: Tensor) -> Tensor:
        """Tokens attend to pixels, with keys and values folded to the tokens' side."""
        batch, count, channels = tokens.shape
        queries = self._separate(attention.q_proj(tokens))
        width = queries.shape[-1]
        # The keys' bias adds the same to all of a token's scores, which the softmax undoes.
        to_keys = attention.k_proj.weight.view(self._heads, width, channels)
        probes = (queries @ to_keys * width**-0.5).view(batch, -1, channels).to(self._dtype)
        shares = (probes @ placed.transpose(1, 2)).softmax(dim=-1)
        seen = (shares @ pixels).to(tokens.dtype).view(batch, self._heads, count, channels)
        to_values = attention.v_proj.weight.view(self._heads, width, channels)
        found = (seen @ to_values.transpose(1, 2)).transpose(1, 2).flatten(2)
        answer: Tensor = attention.out_proj(found + attention.v_proj.bias)
        return answer

    def _scores_of_pixels(self, attention: Any, keys: Tensor, placed: Tensor) -> Tensor:
        """Scores `[B, heads, T, N]` of pixels that attend to tokens with these keys."""
        batch, heads, count, width = keys.shape
        keys = keys * width**-0.5
        to_queries = attention.q_proj.weight.view(heads, width, -1)
        probes = (keys @ to_queries).view(batch, heads * count, -1).to(self._dtype)
        bias = (keys * attention.q_proj.bias.view(heads, 1, width)).sum(-1)
        offsets = bias.view(batch, heads * count, 1).to(self._dtype)
        scores = torch.baddbmm(offsets, probes, placed.transpose(1, 2))
        return scores.view(batch, heads, count, -1)

    def _token_outputs(self, attention: Any, tokens: Tensor) -> Tensor:
        """What a pixel gets from each head and token, `[B, heads * T, C]`."""
        values = self._separate(attention.v_proj(tokens))
        width = values.shape[-1]
        to_output = attention.out_proj.weight.view(-1, self._heads, width).permute(1, 2, 0)
        # A pixel's shares add up to one in every head, so each may bring a part of the bias.
        outputs: Tensor = values @ to_output + attention.out_proj.bias / self._heads
        return outputs.flatten(1, 2)

    def _hypernetworks(self, tokens: Tensor) -> Tensor:
        """`[B, masks, C / 8]` from the mask tokens; one MLP each, all at once."""
        hidden = tokens[:, : self._decoder.num_mask_tokens].transpose(0, 1)
        for index, (weight, bias) in enumerate(self._hyper):
            hidden = torch.baddbmm(bias, F.relu(hidden) if index else hidden, weight)
        return hidden.transpose(0, 1)

    def _logits(self, middle: Tensor, fine: Tensor, pixels: Tensor, hyper: Tensor) -> Tensor:
        """Logits of masks in nested order, `float32[B, M, N, 16]`; B may be 0.

        Args:
            middle: of `DecoderImage`, `[B or 1, ...]`.
            fine: of the same.
            pixels: `[B, N, C]`.
            hyper: `[B, M, C / 8]`.
        """
        batch, count, channels = pixels.shape
        middle = torch.baddbmm(
            middle.expand(batch, -1, -1), pixels, self._up1.expand(batch, -1, -1)
        )
        middle = self._activation1(self._up_norm(middle.view(batch, 4 * count, channels // 4)))
        fine = torch.baddbmm(fine.expand(batch, -1, -1), middle, self._up2.expand(batch, -1, -1))
        fine = self._activation2(fine).view(batch, 16 * count, channels // 8)
        logits: Tensor = (hyper.to(self._dtype) @ fine.transpose(1, 2)).float()
        return logits.view(batch, hyper.shape[1], count, 16)


def _best(quality: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
    """The mask with the highest predicted IoU, of `[B, M]` and `[B, M, C]`; M becomes 1."""
    quality, chosen = quality.max(dim=1, keepdim=True)
    return quality, hyper.gather(1, chosen[..., None].expand(-1, -1, hyper.shape[-1]))


def _in_raster_order(logits: Tensor) -> Tensor:
    """`[M, N, 16]` in nested order to `[M, 4 h, 4 w]`."""
    masks, count, _ = logits.shape
    side = math.isqrt(count)  # SAM 2's images are squares
    # Row, column, row of 2, column of 2, row of 2, column of 2.
    nested = logits.reshape(masks, side, side, 2, 2, 2, 2)
    return nested.permute(0, 1, 3, 5, 2, 4, 6).reshape(masks, 4 * side, 4 * side)


@dataclass(frozen=True, slots=True)
class _Norm:
    """Layer norm over the last dimension, with weights in the dtype of what it normalises."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.Module, dtype: torch.dtype) -> _Norm:
        """From `nn.LayerNorm`, or from SAM 2's `LayerNorm2d`, which has the channels first."""
        eps: Any = norm.eps
        weight: Any = norm.weight
        bias: Any = norm.bias
        return cls(weight.to(dtype), bias.to(dtype), float(eps))

    def __call__(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, self.weight.shape, self.weight, self.bias, self.eps)


def _in_place(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """An activation that writes over its input: 8 MB a prompt less to go through."""
    if isinstance(activation, nn.GELU):
        approximate = activation.approximate
        return lambda rows: torch.ops.aten.gelu_(rows, approximate=approximate)
    return activation


def _rows(planes: Tensor) -> Tensor:
    """`[B, C, h, w]` to `[B, h * w, C]`."""
    return planes.flatten(2).transpose(1, 2)


def _as_product(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A 2 x 2 transposed convolution of stride 2 as `[in, 4 * out]` and a bias `[4 * out]`."""
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return weight.to(dtype).contiguous(), layer.bias.repeat(4)


def _nested(planes: Tensor, levels: int) -> Tensor:
    """`[B, C, h * 2**levels, w * 2**levels]` to `[B, h * w * 4**(levels - 1), 4 * C]`.

    Rows run through the coarse pixels, then through the 2 x 2 parts of each, level by level; the
    last level lies beside the channels.
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
