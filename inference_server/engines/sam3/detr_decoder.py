"""SAM 3's DETR decoder, with the prompt-independent part of its first layer computed once.

It uses the weights of `Sam3DetrDecoder`, and its results equal that module's up to rounding. Until
a query first attends to the prompt, it depends on the weights only, and so does the position bias
of the first layer: both are computed once per model. The presence logit is computed after the last
layer only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor

from inference_server.engines.sam3.attention import attend, linear, split_heads


@dataclass(frozen=True, slots=True)
class _Grid:
    """Tensors that depend only on the model and the number of pixels.

    Attributes:
        rows: `float32[h]`, position of each pixel row, 0 to 1.
        columns: `float32[w]`, position of each pixel column, 0 to 1.
        bias: Attention bias of the first layer, see `_box_bias`.
    """

    rows: Tensor
    columns: Tensor
    bias: tuple[Tensor, Tensor]


class FastQueryDecoder:
    """`Sam3DetrDecoder` for inference. Thread-safe.

    Args:
        decoder: `Sam3DetrDecoder` with its weights.
        dtype: Dtype of products as large as the image; queries, which are few, stay in float32.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self._decoder = decoder
        self._dtype = dtype
        self._grids: dict[tuple[int, int], _Grid] = {}
        with torch.inference_mode():
            self._boxes = decoder.reference_points.weight[None].sigmoid()
            self._places = self._box_positions(self._boxes)
            tokens = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])[None]
            self._queries = self._self_attention(decoder.layers[0], tokens, self._places)

    def __call__(
        self,
        pixels: Tensor,
        positioned: Tensor,
        size: tuple[int, int],
        tokens: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode object queries for the concepts of B prompts.

        Args:
            pixels: `float32[B, h * w, C]`, the images after attention to the prompts.
            positioned: `float32[B, h * w, C]`, the same with position encodings added.
            size: (h, w), rows and columns of pixels.
            tokens: `float32[B, T, C]`, the prompts' tokens.
            mask: `bool[B, T]`, the tokens that are not padding; None if none is.

        Returns:
            Queries, `float32[B, Q, C]`; their boxes, `float32[B, Q, 4]`, as centre x, centre y,
            width, height in fractions of the image's sides; and the logit of the concept's
            presence, `float32[B, 1]`.
        """
        decoder = self._decoder
        grid = self._grid(size)
        boxes, places, bias = self._boxes, self._places, grid.bias
        hidden = self._queries.expand(len(pixels), -1, -1)
        seen = None if mask is None else mask[:, None, None]
        for index, layer in enumerate(decoder.layers):
            if index:
                boxes = self._refined(boxes, decoder.output_layer_norm(hidden[:, 1:]))
                places = self._box_positions(boxes)
                bias = self._box_bias(boxes, grid.rows, grid.columns)
                hidden = self._self_attention(layer, hidden, places)
            attention = layer.text_cross_attn
            found = attend(attention, hidden + places, tokens, tokens, seen)
            hidden = layer.text_cross_attn_layer_norm(hidden + found)
            found = self._attend_pixels(
                layer.vision_cross_attn, hidden + places, positioned, pixels, bias
            )
            hidden = layer.vision_cross_attn_layer_norm(hidden + found)
            hidden = layer.mlp_layer_norm(hidden + layer.mlp(hidden))
        presence = decoder.presence_head(decoder.presence_layer_norm(hidden[:, 0]))
        limit = decoder.clamp_presence_logit_max_val
        queries = decoder.output_layer_norm(hidden[:, 1:])
        return queries, self._refined(boxes, queries), presence.clamp(-limit, limit)

    def _refined(self, boxes: Tensor, queries: Tensor) -> Tensor:
        """Refine boxes `[B, Q, 4]` with a layer's output queries `[B, Q, C]`."""
        before = boxes.clamp(0, 1)
        before = (before.clamp(min=1e-3) / (1 - before).clamp(min=1e-3)).log()
        refined: Tensor = (self._decoder.box_head(queries) + before).sigmoid()
        return refined

    def _box_positions(self, boxes: Tensor) -> Tensor:
        """Position encodings of queries, `[B, 1 + Q, C]`; zero for the presence token (first)."""
        decoder = self._decoder
        codes = decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes))
        return F.pad(codes, (0, 0, 1, 0))

    def _self_attention(self, layer: Any, hidden: Tensor, places: Tensor) -> Tensor:
        """A decoder layer's self-attention, added to its input and normalised."""
        positioned = hidden + places
        found = attend(layer.self_attn, positioned, positioned, hidden)
        normalised: Tensor = layer.self_attn_layer_norm(hidden + found)
        return normalised

    def _attend_pixels(
        self,
        attention: Any,
        queries: Tensor,
        positioned: Tensor,
        pixels: Tensor,
        bias: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Attention from queries to pixels; `bias` is one for rows and one for columns, summed."""
        dtype = self._dtype
        rows, columns = bias
        added = (rows[..., None] + columns[..., None, :]).flatten(3).to(dtype)
        found = F.scaled_dot_product_attention(
            split_heads(linear(attention.q_proj, queries, dtype), attention),
            split_heads(linear(attention.k_proj, positioned, dtype), attention),
            split_heads(linear(attention.v_proj, pixels, dtype), attention),
            attn_mask=added.expand(len(queries), -1, -1, -1),
        )
        attended: Tensor = attention.o_proj(found.transpose(1, 2).flatten(2).float())
        return attended

    def _box_bias(self, boxes: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Attention bias of queries for pixel rows and columns, from the queries' boxes.

        Args:
            boxes: `[B, Q, 4]`, centre x, centre y, width, height, 0 to 1.
            rows: `[h]`, position of each pixel row, 0 to 1.
            columns: `[w]`, position of each pixel column, 0 to 1.

        Returns:
            `[B, heads, 1 + Q, h]` and `[B, heads, 1 + Q, w]`; zero for the presence token, which
            is first.
        """
        centre, size = boxes[..., :2], boxes[..., 2:]
        corners = torch.stack([centre - size / 2, centre + size / 2], dim=-1)  # [B, Q, 2, 2]
        found = []
        for axis, places, embed in (
            (1, rows, self._decoder.box_rpb_embed_y),
            (0, columns, self._decoder.box_rpb_embed_x),
        ):
            away = 8 * (places[:, None] - corners[:, :, None, axis])  # [B, Q, n, 2]
            away = away.sign() * (away.abs() + 1).log2() / 3
            bias = embed.layer2(embed.layer1(away).relu_())
            # Contiguous, because otherwise their sum, 33 MB, would have to be copied.
            found.append(F.pad(bias.permute(0, 3, 1, 2), (0, 0, 1, 0)).contiguous())
        return found[0], found[1]

    def _grid(self, size: tuple[int, int]) -> _Grid:
        grid = self._grids.get(size)
        if grid is None:
            rows, columns = (torch.arange(n, device=self._boxes.device) / n for n in size)
            grid = _Grid(rows, columns, self._box_bias(self._boxes, rows, columns))
            self._grids[size] = grid
        return grid
