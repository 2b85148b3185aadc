"""Attention as SAM 3 has it, `Sam3Attention`, in the order of products that suits its sizes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from torch import Tensor


def linear(layer: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """A linear layer in a dtype of its own; the result has it too."""
    return F.linear(rows.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))


def heads_of(rows: Tensor, attention: Any) -> Tensor:
    """`[B, n, heads * c]` to `[B, heads, n, c]`."""
    heads: int = attention.num_attention_heads
    return rows.view(*rows.shape[:2], heads, -1).transpose(1, 2)


def attend(
    attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`Sam3Attention` of few tokens to few tokens; `mask` is bool, `[B, 1, 1, T]`."""
    found = F.scaled_dot_product_attention(
        heads_of(attention.q_proj(queries), attention),
        heads_of(attention.k_proj(keys), attention),
        heads_of(attention.v_proj(values), attention),
        attn_mask=mask,
    )
    attended: Tensor = attention.o_proj(found.transpose(1, 2).flatten(2))
    return attended


def add_from_tokens(
    attention: Any, norm: Any, pixels: Tensor, tokens: Tensor, mask: Tensor | None
) -> Tensor:
    """`pixels` and what they find in tokens, `[B, N, C]`; products folded to the tokens' side."""
    batch, count, channels = tokens.shape
    heads = attention.num_attention_heads
    keys = heads_of(attention.k_proj(tokens), attention) * (channels // heads) ** -0.5
    to_queries = attention.q_proj.weight.view(heads, -1, channels)
    probes = (keys @ to_queries).view(batch, heads * count, channels)
    offsets = keys @ attention.q_proj.bias.view(heads, -1, 1)
    if mask is not None:
        offsets = offsets.masked_fill(~mask[:, None, :, None], -torch.inf)
    values = heads_of(attention.v_proj(tokens), attention)
    to_output = attention.o_proj.weight.view(channels, heads, -1).permute(1, 2, 0)
    # A pixel's shares add up to one in every head, so each may bring a part of the bias.
    outputs = (values @ to_output + attention.o_proj.bias / heads).view(batch, -1, channels)
    # In [heads, T, N] the softmax runs along whole rows of N: several times faster than over a
    # last dimension of a few tokens.
    scores = torch.baddbmm(offsets.view(batch, -1, 1), probes, norm(pixels).transpose(1, 2))
    shares = scores.view(batch, heads, count, -1).softmax(dim=2).view(batch, heads * count, -1)
    return torch.baddbmm(pixels, shares.transpose(1, 2), outputs)
