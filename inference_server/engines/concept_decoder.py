"""SAM 3 behind its encoders, arranged so that a prompt pays only for itself.

The arithmetic is that of `transformers.Sam3Model.forward` after vision and text encoder, with its
weights, and the answers agree to rounding. It is done in another order:

* What does not depend on the prompt is done once. To the image belong the self-attention of the
  first encoder layer, and what the skip connections bring to the pixel decoder; to the model the
  first decoder layer up to its attention to the prompt, and its position bias.
* Few tokens meet many pixels. Where 5184 pixels attend to T tokens, `(x Wq) k'` is taken as
  `x (Wq k')`, and values and output likewise: products of `[N, C]` with `[C, heads * T]` instead
  of with square matrices. Tokens that only pad a text have no weight in any attention and are left
  out: T is 4 for "red circle", not 32.
* Scores come first. Masks are made only of the candidates that somebody wants, from the pixel
  decoder's last features directly: the projection in between is folded into the queries. Where
  nobody wants any, there is no pixel decoder at all, which is a fifth of the work.
* Boxes of candidates, their last refinement, the semantic head and intermediate scores are not
  read by anybody, and not made.

For the pixel decoder see `pixel_decoder`. Measured for one text at SAM 3's size: FIGURES
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from torch import Tensor
from transformers import Sam3Model

from inference_server.engines.pixel_decoder import FastPixelDecoder

_MLP_ROWS = 1296
"""Pixels that go through an encoder layer's MLP at a time on a CPU, so that what lies between its
two products, 8 times as wide as a pixel, need not leave the cache."""


@dataclass(frozen=True, slots=True)
class ConceptImage:
    """What the decoder has to know of `B` images; `N = h * w` pixels of the coarsest level.

    Attributes:
        coarse: `[B, C, h, w]`, the coarsest level, which exemplars look at.
        pixels: `[B, N, C]`, the same after the encoder's first self-attention.
        skips: `[B, P, h, w, C]`, what finer levels bring to the pixel decoder, coarse to fine.
    """

    coarse: Tensor
    pixels: Tensor
    skips: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the attributes."""
        return (self.coarse, self.pixels, *self.skips)

    @property
    def nbytes(self) -> int:
        """Memory that they keep."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def plane_size(self) -> tuple[int, int]:
        """(height, width) of a mask plane."""
        if not self.skips:
            return (self.coarse.shape[2], self.coarse.shape[3])
        _, places, height, width, _ = self.skips[-1].shape
        return (height, width) if places == 1 else (2 * height, 2 * width)

    def pick(self, index: int) -> ConceptImage:
        """One image of a batch, as a batch of its own; a copy."""
        return self._of([tensor[index : index + 1].clone() for tensor in self.tensors])

    def to(self, target: torch.device | torch.dtype) -> ConceptImage:
        """The same on another device or in another dtype; itself if it is so already."""
        return self._of([tensor.to(target) for tensor in self.tensors])

    @staticmethod
    def _of(tensors: Sequence[Tensor]) -> ConceptImage:
        coarse, pixels, *skips = tensors
        return ConceptImage(coarse, pixels, tuple(skips))


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates of `B` prompts, before any of them has a mask.

    Attributes:
        scores: `float32[B, Q]`, confidence that the candidate is there and is the concept.
        queries: `float32[B, Q, C]`, what masks are made from.
        pixels: `float32[B, N, C]`, the image as the prompt sees it.
    """

    scores: Tensor
    queries: Tensor
    pixels: Tensor


@dataclass(frozen=True, slots=True)
class _Grid:
    """What depends on the model and the number of pixels only.

    Attributes:
        positions: `float32[N, C]`, position codes of the coarsest level.
        rows: `float32[h]`, a pixel row's place, 0 to 1.
        columns: `float32[w]`.
        bias: of the first decoder layer, see `_box_bias`.
    """

    positions: Tensor
    rows: Tensor
    columns: Tensor
    bias: tuple[Tensor, Tensor]


class FastConceptDecoder:
    """SAM 3 from features to masks, for inference. May be used from several threads at a time.

    Args:
        model: with its weights, on the device, in evaluation mode.
        dtype: of products as large as the image. What is summed up, attention to the few tokens
            and the tokens themselves stay in float32.
    """

    def __init__(self, model: Sam3Model, dtype: torch.dtype) -> None:
        self._model: Any = model
        self._dtype = dtype
        self._encoder: list[Any] = list(model.detr_encoder.layers)
        self._decoder: Any = model.detr_decoder
        self._masks: Any = model.mask_decoder
        self._pixel_decoder = FastPixelDecoder(model.mask_decoder.pixel_decoder, dtype)
        self._grids: dict[tuple[int, int], _Grid] = {}
        projection: Any = self._masks.instance_projection
        self._projection: Tensor = projection.weight.flatten(1)
        self._projection_bias: Tensor = projection.bias
        with torch.inference_mode():
            self._start()

    def _start(self) -> None:
        """The first decoder layer up to its attention to the prompt."""
        decoder = self._decoder
        self._boxes = decoder.reference_points.weight[None].sigmoid()
        self._places = self._box_positions(self._boxes)
        tokens = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])[None]
        self._queries = self._among_queries(decoder.layers[0], tokens, self._places)

    def prepare(self, levels: Sequence[Tensor]) -> ConceptImage:
        """Do once for an image what no prompt changes.

        Args:
            levels: `[B, C, H, W]` features of the vision encoder, finest first, without the one
                that the model drops.

        Returns:
            `B` images in the decoder's dtype.
        """
        coarse = levels[-1]
        pixels = self._among_pixels(
            self._encoder[0], coarse.float().flatten(2).transpose(1, 2), self._grid(coarse)
        )
        skips = self._pixel_decoder.prepare(list(levels))
        return ConceptImage(
            coarse.to(self._dtype).contiguous(), pixels.to(self._dtype).contiguous(), skips
        )

    def exemplars(self, images: Sequence[ConceptImage], boxes: Tensor, labels: Tensor) -> Tensor:
        """Tokens of exemplar boxes; by the model's own geometry encoder.

        Args:
            images: one for each prompt.
            boxes: `float32[B, K, 4]`, centre x, centre y, width, height as shares of the image.
            labels: `int64[B, K]`, 1 for "like this", 0 for "not like this", -10 for no box; boxes
                come before that.

        Returns:
            `float32[B, K + 1, C]`; of a prompt with k boxes, the first k + 1 count.
        """
        coarse = torch.cat([image.coarse for image in images]).float()
        batch, _, height, width = coarse.shape
        positions = self._grid(coarse).positions.T.reshape(-1, height, width)
        there = labels >= 0
        found: Tensor = self._model.geometry_encoder(
            box_embeddings=boxes,
            box_mask=there,
            box_labels=labels.where(there, 0),
            img_feats=(coarse,),
            img_pos_embeds=(positions.expand(batch, -1, -1, -1),),
        ).last_hidden_state
        return found

    def find(self, images: Sequence[ConceptImage], tokens: Tensor, mask: Tensor | None) -> Found:
        """Candidates of prompts, all queries of the model.

        Args:
            images: one for each prompt.
            tokens: `float32[B, T, C]`, embedded words and exemplars.
            mask: `bool[B, T]`, which tokens count; None if all do.
        """
        grid = self._grid(images[0].coarse)
        if all(image is images[0] for image in images):
            pixels = images[0].pixels.float().expand(len(images), -1, -1)
        else:
            pixels = torch.cat([image.pixels for image in images]).float()
        for index, layer in enumerate(self._encoder):
            if index:
                pixels = self._among_pixels(layer, pixels, grid)
            pixels = _to_tokens(layer.cross_attn, layer.layer_norm2, pixels, tokens, mask)
            self._add_mlp(layer, pixels)
        queries, presence = self._decode(pixels, grid, tokens, mask)
        logits = self._model.dot_product_scoring(queries[None], tokens, mask)[0, :, :, 0]
        return Found(logits.sigmoid() * presence.sigmoid(), queries, pixels)

    def masks(
        self, image: ConceptImage, found: Found, index: int, kept: Tensor, tokens: Tensor
    ) -> Tensor:
        """Mask planes of some of one prompt's candidates.

        Args:
            image: of the prompt.
            found: candidates of all prompts.
            index: which prompt.
            kept: `int64[K]`, which candidates.
            tokens: `float32[1, T, C]`, the prompt's tokens, without any that do not count.

        Returns:
            `float32[K, H, W]` logits.
        """
        masks = self._masks
        pixels = _to_tokens(
            masks.prompt_cross_attn,
            masks.prompt_cross_attn_norm,
            found.pixels[index : index + 1],
            tokens,
            None,
        )
        queries = masks.mask_embedder(found.queries[index, kept])
        height, width = image.coarse.shape[-2:]
        planes = self._pixel_decoder(
            pixels[0].to(self._dtype).view(height, width, -1),
            tuple(skip[0] for skip in image.skips),
            queries @ self._projection,
        )
        return planes.add_((queries @ self._projection_bias)[:, None, None])

    def _grid(self, coarse: Tensor) -> _Grid:
        size = (coarse.shape[-2], coarse.shape[-1])
        grid = self._grids.get(size)
        if grid is None:
            height, width = size
            codes = self._model.vision_encoder.neck.position_encoding(
                torch.Size((1, coarse.shape[1], height, width)), coarse.device, torch.float32
            )
            rows, columns = (torch.arange(n, device=coarse.device) / n for n in size)
            grid = _Grid(
                codes[0].flatten(1).T.contiguous(),
                rows,
                columns,
                self._box_bias(self._boxes, rows, columns),
            )
            self._grids[size] = grid
        return grid

    def _linear(self, layer: Any, rows: Tensor) -> Tensor:
        """A linear layer in the decoder's dtype."""
        dtype = self._dtype
        return F.linear(rows.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))

    def _among_pixels(self, layer: Any, pixels: Tensor, grid: _Grid) -> Tensor:
        """An encoder layer's self-attention: `[B, N, C]` to the same, a copy."""
        hidden = layer.layer_norm1(pixels)
        placed = hidden + grid.positions
        attention = layer.self_attn
        queries, keys, values = (
            _heads(self._linear(projection, rows), attention)
            for projection, rows in (
                (attention.q_proj, placed),
                (attention.k_proj, placed),
                (attention.v_proj, hidden),
            )
        )
        found = F.scaled_dot_product_attention(queries, keys, values)
        return pixels + self._linear(attention.o_proj, found.transpose(1, 2).flatten(2))

    def _add_mlp(self, layer: Any, pixels: Tensor) -> None:
        """An encoder layer's MLP, in place."""
        mlp = layer.mlp
        rows = pixels.flatten(0, 1)
        step = len(rows) if rows.is_cuda else _MLP_ROWS
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            hidden = self._linear(mlp.fc1, layer.layer_norm3(part))
            if isinstance(mlp.activation_fn, torch.nn.ReLU):
                hidden = hidden.relu_()
            else:
                hidden = mlp.activation_fn(hidden)
            part += self._linear(mlp.fc2, hidden)

    def _decode(
        self, pixels: Tensor, grid: _Grid, tokens: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The DETR decoder: queries `[B, Q, C]` and the presence logit `[B, 1]`."""
        decoder = self._decoder
        placed = pixels + grid.positions
        batch = len(pixels)
        boxes, places, bias = self._boxes, self._places, grid.bias
        hidden = self._queries.expand(batch, -1, -1)
        seen = None if mask is None else mask[:, None, None]
        for index, layer in enumerate(decoder.layers):
            if index:
                before = boxes.clamp(0, 1)
                before = (before.clamp(min=1e-3) / (1 - before).clamp(min=1e-3)).log()
                change = decoder.box_head(decoder.output_layer_norm(hidden[:, 1:]))
                boxes = (change + before).sigmoid()
                places = self._box_positions(boxes)
                bias = self._box_bias(boxes, grid.rows, grid.columns)
                hidden = self._among_queries(layer, hidden, places)
            attention = layer.text_cross_attn
            found = _attend(attention, hidden + places, tokens, tokens, seen)
            hidden = layer.text_cross_attn_layer_norm(hidden + found)
            found = self._to_pixels(layer.vision_cross_attn, hidden + places, placed, pixels, bias)
            hidden = layer.vision_cross_attn_layer_norm(hidden + found)
            hidden = layer.mlp_layer_norm(hidden + layer.mlp(hidden))
        presence = decoder.presence_head(decoder.presence_layer_norm(hidden[:, 0]))
        limit = decoder.clamp_presence_logit_max_val
        return decoder.output_layer_norm(hidden[:, 1:]), presence.clamp(-limit, limit)

    def _box_positions(self, boxes: Tensor) -> Tensor:
        """Position codes `[B, 1 + Q, C]` of queries; zero for the presence token before them."""
        decoder = self._decoder
        codes = decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes))
        return F.pad(codes, (0, 0, 1, 0))

    def _among_queries(self, layer: Any, hidden: Tensor, places: Tensor) -> Tensor:
        """A decoder layer's self-attention and its norm."""
        placed = hidden + places
        found = _attend(layer.self_attn, placed, placed, hidden)
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
        rows, columns = bias
        added = (rows[..., None] + columns[..., None, :]).flatten(3).to(self._dtype)
        found = F.scaled_dot_product_attention(
            _heads(self._linear(attention.q_proj, queries), attention),
            _heads(self._linear(attention.k_proj, placed), attention),
            _heads(self._linear(attention.v_proj, pixels), attention),
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


def _heads(rows: Tensor, attention: Any) -> Tensor:
    """`[B, n, heads * c]` to `[B, heads, n, c]`."""
    heads: int = attention.num_attention_heads
    return rows.view(*rows.shape[:2], heads, -1).transpose(1, 2)


def _attend(
    attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`Sam3Attention` of few tokens to few tokens; `mask` is bool, `[B, 1, 1, T]`."""
    found = F.scaled_dot_product_attention(
        _heads(attention.q_proj(queries), attention),
        _heads(attention.k_proj(keys), attention),
        _heads(attention.v_proj(values), attention),
        attn_mask=mask,
    )
    attended: Tensor = attention.o_proj(found.transpose(1, 2).flatten(2))
    return attended


def _to_tokens(
    attention: Any, norm: Any, pixels: Tensor, tokens: Tensor, mask: Tensor | None
) -> Tensor:
    """`pixels` and what they find in tokens, `[B, N, C]`; products folded to the tokens' side."""
    batch, count, channels = tokens.shape
    heads = attention.num_attention_heads
    keys = _heads(attention.k_proj(tokens), attention) * (channels // heads) ** -0.5
    to_queries = attention.q_proj.weight.view(heads, -1, channels)
    probes = (keys @ to_queries).view(batch, heads * count, channels)
    offsets = keys @ attention.q_proj.bias.view(heads, -1, 1)
    if mask is not None:
        offsets = offsets.masked_fill(~mask[:, None, :, None], -torch.inf)
    values = _heads(attention.v_proj(tokens), attention)
    to_output = attention.o_proj.weight.view(channels, heads, -1).permute(1, 2, 0)
    # A pixel's shares add up to one in every head, so each may bring a part of the bias.
    outputs = (values @ to_output + attention.o_proj.bias / heads).view(batch, -1, channels)
    # In [heads, T, N] the softmax runs along whole rows of N: several times faster than over a
    # last dimension of a few tokens.
    scores = torch.baddbmm(offsets.view(batch, -1, 1), probes, norm(pixels).transpose(1, 2))
    shares = scores.view(batch, heads, count, -1).softmax(dim=2).view(batch, heads * count, -1)
    return torch.baddbmm(pixels, shares.transpose(1, 2), outputs)
