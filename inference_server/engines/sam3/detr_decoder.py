"""SAM 3's DETR decoder, of which the first layer begins the same for every prompt.

The arithmetic is that of `Sam3DetrDecoder`, with its weights. Until a query first attends to the
prompt, it depends on the weights alone, and so does the position bias of the first layer: both
belong to the model. Presence is read off once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from torch import Tensor

from inference_server.engines.sam3.attention import attend, heads_of, linear


@dataclass(frozen=True, slots=True)
class _Grid:
    """What depends on the model and the number of pixels only.

    Attributes:
        rows: `float32[h]`, a pixel row's place, 0 to 1.
        columns: `float32[w]`, likewise.
        bias: of the first layer, see `_box_bias`.
    """

    rows: Tensor
    columns: Tensor
    bias: tuple[Tensor, Tensor]


class FastQueryDecoder:
    """`Sam3DetrDecoder` for inference. May be used from several threads at a time.

    Args:
        decoder: with its weights.
        dtype: of products as large as the image. Queries are few and stay in float32.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self._decoder = decoder
        self._dtype = dtype
        self._grids: dict[tuple[int, int], _Grid] = {}
        with torch.inference_mode():
            self._boxes = decoder.reference_points.weight[None].sigmoid()
            self._places = self._box_positions(self._boxes)
            tokens = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])[None]
            self._queries = self._among_queries(decoder.layers[0], tokens, self._places)

    def __call__(
        self,
        pixels: Tensor,
        placed: Tensor,
        size: tuple[int, int],
        tokens: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Look for a concept.

        Args:
            pixels: `float32[B, h * w, C]`, the image as the prompt sees it.
            placed: the same with position codes.
            size: (h, w).
            tokens: `float32[B, T, C]`, the prompt.
            mask: `bool[B, T]`, which tokens count; None if all do.

        Returns:
            Queries `float32[B, Q, C]`, their boxes `float32[B, Q, 4]`, (centre x, centre y, width,
            height) as shares of the image, and the logit of the concept's presence `float32[B, 1]`.
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
                hidden = self._among_queries(layer, hidden, places)
            attention = layer.text_cross_attn
            found = attend(attention, hidden + places, tokens, tokens, seen)
            hidden = layer.text_cross_attn_layer_norm(hidden + found)
            found = self._to_pixels(layer.vision_cross_attn, hidden + places, placed, pixels, bias)
            hidden = layer.vision_cross_attn_layer_norm(hidden + found)
            hidden = layer.mlp_layer_norm(hidden + layer.mlp(hidden))
        presence = decoder.presence_head(decoder.presence_layer_norm(hidden[:, 0]))
        limit = decoder.clamp_presence_logit_max_val
        queries = decoder.output_layer_norm(hidden[:, 1:])
        return queries, self._refined(boxes, queries), presence.clamp(-limit, limit)

    def _refined(self, boxes: Tensor, queries: Tensor) -> Tensor:
        """Boxes `[B, Q, 4]` as a layer leaves them, by its queries `[B, Q, C]`."""
        before = boxes.clamp(0, 1)
        before = (before.clamp(min=1e-3) / (1 - before).clamp(min=1e-3)).log()
        refined: Tensor = (self._decoder.box_head(queries) + before).sigmoid()
        return refined

    def _box_positions(self, boxes: Tensor) -> Tensor:
        """Position codes `[B, 1 + Q, C]` of queries; zero for the presence token before them."""
        decoder = self._decoder
        codes = decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes))
        return F.pad(codes, (0, 0, 1, 0))

    def _among_queries(self, layer: Any, hidden: Tensor, places: Tensor) -> Tensor:
        """A decoder layer's self-attention and its norm."""
        placed = hidden + places
        found = attend(layer.self_attn, placed, placed, hidden)
        normalised: Tensor = layer.self_attn_layer_norm(hidden + found)
        return normalised

    def _to_pixels(
        self,
        attention: Any,
        queries: Tensor,
        placed: Tensor,
        pixels: Tensor,
        bias: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Queries attend to pixels, with a bias that is a sum of one for rows and columns."""
        dtype = self._dtype
        rows, columns = bias
        added = (rows[..., None] + columns[..., None, :]).flatten(3).to(dtype)
        found = F.scaled_dot_product_attention(
            heads_of(linear(attention.q_proj, queries, dtype), attention),
            heads_of(linear(attention.k_proj, placed, dtype), attention),
            heads_of(linear(attention.v_proj, pixels, dtype), attention),
            attn_mask=added.expand(len(queries), -1, -1, -1),
        )
        attended: Tensor = attention.o_proj(found.transpose(1, 2).flatten(2).float())
        return attended

    def _box_bias(self, boxes: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """How much more queries attend to pixel rows and columns, by where their boxes are.

        Args:
            boxes: `[B, Q, 4]`, centre x, centre y, width, height, 0 to 1.
            rows: `[h]`, 0 to 1.
            columns: `[w]`, 0 to 1.

        Returns:
            `[B, heads, 1 + Q, h]` and `[B, heads, 1 + Q, w]`; zero for the presence token, which
            comes first.
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
            # Contiguous, or else the sum of both, 33 MB, would be laid out anew.
            found.append(F.pad(bias.permute(0, 3, 1, 2), (0, 0, 1, 0)).contiguous())
        return found[0], found[1]

    def _grid(self, size: tuple[int, int]) -> _Grid:
        grid = self._grids.get(size)
        if grid is None:
            rows, columns = (torch.arange(n, device=self._boxes.device) / n for n in size)
            grid = _Grid(rows, columns, self._box_bias(self._boxes, rows, columns))
            self._grids[size] = grid
        return grid
