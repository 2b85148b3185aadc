"""SAM 3's attention, `Sam3Attention`, with matrix products in an order that suits its shapes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor


def linear(layer: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Apply a linear layer in another dtype than its weights'.

    Args:
        layer: `nn.Linear`.
        rows: `[..., in]`.
        dtype: Dtype of the product and of the result.

    Returns:
        `[..., out]`.
    """
    return F.linear(rows.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))


def split_heads(rows: Tensor, attention: Any) -> Tensor:
    """Split heads.

    Args:
        rows: `[B, n, heads * c]`.
        attention: `Sam3Attention`, which knows the number of heads.

    Returns:
        `[B, heads, n, c]`.
    """
    heads: int = attention.num_attention_heads
    return rows.view(*rows.shape[:2], heads, -1).transpose(1, 2)


def attend(
    attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention among few tokens.

    Args:
        attention: `Sam3Attention` with its weights.
        queries: `[B, Q, C]`.
        keys: `[B, T, C]`.
        values: `[B, T, C]`.
        mask: `bool[B, 1, 1, T]`, the tokens to attend to; None (the default) for all.

    Returns:
        `[B, Q, C]`.
    """
    found = F.scaled_dot_product_attention(
        split_heads(attention.q_proj(queries), attention),
        split_heads(attention.k_proj(keys), attention),
        split_heads(attention.v_proj(values), attention),
        attn_mask=mask,
    )
    attended: Tensor = attention.o_proj(found.transpose(1, 2).flatten(2))
    return attended


def add_cross_attention(
    attention: Any, norm: Any, pixels: Tensor, tokens: Tensor, mask: Tensor | None
) -> Tensor:
    """Attention from many pixels to few tokens, added to the pixels.

    Projections of the pixels are applied to the tokens instead, which are fewer.

    Args:
        attention: `Sam3Attention` with its weights.
        norm: Normalisation of the pixels before the attention.
        pixels: `[B, N, C]`.
        tokens: `[B, T, C]`.
        mask: `bool[B, T]`, the tokens to attend to; None for all.

    Returns:
        `[B, N, C]`, a copy.
    """
    batch, count, channels = tokens.shape
    heads = attention.num_attention_heads
    keys = split_heads(attention.k_proj(tokens), attention) * (channels // heads) ** -0.5
    to_queries = attention.q_proj.weight.view(heads, -1, channels)
    probes = (keys @ to_queries).view(batch, heads * count, channels)
    offsets = keys @ attention.q_proj.bias.view(heads, -1, 1)
    if mask is not None:
        offsets = offsets.masked_fill(~mask[:, None, :, None], -torch.inf)
    values = split_heads(attention.v_proj(tokens), attention)
    to_output = attention.o_proj.weight.view(channels, heads, -1).permute(1, 2, 0)
    # A pixel's attention sums to one in each head, so each head can add its part of the bias.
    outputs = (values @ to_output + attention.o_proj.bias / heads).view(batch, -1, channels)
    # In [heads, T, N], the softmax over T processes whole rows of N values, which is several times
    # faster than a softmax over a last dimension of a few tokens.
    scores = torch.baddbmm(offsets.view(batch, -1, 1), probes, norm(pixels).transpose(1, 2))
    weights = scores.view(batch, heads, count, -1).softmax(dim=2).view(batch, heads * count, -1)
    return torch.baddbmm(pixels, weights.transpose(1, 2), outputs)
