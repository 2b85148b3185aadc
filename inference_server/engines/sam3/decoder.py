"""SAM 3 behind its encoders, arranged so that a prompt pays only for itself.

The arithmetic is that of `transformers.Sam3Model.forward` after vision and text encoder, with its
weights, and the answers agree to rounding. It is done in another order:

* What does not depend on the prompt is done once: the self-attention of the first encoder layer,
  and what the skip connections bring to the pixel decoder.
* Few tokens meet many pixels. Where 5184 pixels attend to T tokens, `(x Wq) k'` is taken as
  `x (Wq k')`, and values and output likewise: products of `[N, C]` with `[C, heads * T]` instead
  of with square matrices. Tokens that only pad a text have no weight in any attention and are left
  out: T is 4 for "red circle", not 32.
* Scores come first. Masks are made only of the candidates that somebody wants, from the pixel
  decoder's last features directly: the projection in between is folded into the queries. Where
  nobody wants any, there is no pixel decoder at all.
* Boxes of candidates, their last refinement, the semantic head and intermediate scores are not
  read by anybody, and not made.

See also `query_decoder` and `pixel_decoder`. Measured for one text at SAM 3's size, seconds of one
core: the original 6.4, this with four masks 3.9, with none 3.5. Of that, 2.1 are the attention of
5184 pixels to each other in five encoder layers, where PyTorch's kernel was within a tenth of the
best that a split into products and exponentials by hand came to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from torch import Tensor
from transformers import Sam3Model

from inference_server.engines.features import Features
from inference_server.engines.sam3.attention import add_from_tokens, heads_of, linear
from inference_server.engines.sam3.detr_decoder import FastQueryDecoder
from inference_server.engines.sam3.pixel_decoder import FastPixelDecoder

_MLP_ROWS = 1296
"""Pixels that go through an encoder layer's MLP at a time on a CPU, so that what lies between its
two products, 8 times as wide as a pixel, need not leave the cache."""


@dataclass(frozen=True, slots=True)
class ConceptImage(Features):
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
    def plane_size(self) -> tuple[int, int]:
        """(height, width) of a mask plane."""
        if not self.skips:
            return (self.coarse.shape[2], self.coarse.shape[3])
        _, places, height, width, _ = self.skips[-1].shape
        return (height, width) if places == 1 else (2 * height, 2 * width)

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> ConceptImage:
        """From tensors in that order."""
        coarse, pixels, *skips = tensors
        return cls(coarse, pixels, tuple(skips))


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates of `B` prompts, before any of them has a mask.

    Attributes:
        scores: `float32[B, Q]`, confidence that the candidate is there and is the concept.
        boxes: `float32[B, Q, 4]`, x0, y0, x1, y1 as shares of the image.
        queries: `float32[B, Q, C]`, what masks are made from.
        pixels: `float32[B, N, C]`, the image as the prompt sees it.
    """

    scores: Tensor
    boxes: Tensor
    queries: Tensor
    pixels: Tensor


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
        self._queries = FastQueryDecoder(model.detr_decoder, dtype)
        self._masks: Any = model.mask_decoder
        self._pixel_decoder = FastPixelDecoder(model.mask_decoder.pixel_decoder, dtype)
        self._positions: dict[tuple[int, int], Tensor] = {}
        projection: Any = self._masks.instance_projection
        self._projection: Tensor = projection.weight.flatten(1)
        self._projection_bias: Tensor = projection.bias

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
            self._encoder[0], coarse.float().flatten(2).transpose(1, 2), self._codes(coarse)
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
        positions = self._codes(coarse).T.reshape(-1, height, width)
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
        coarse = images[0].coarse
        codes = self._codes(coarse)
        if all(image is images[0] for image in images):
            pixels = images[0].pixels.float().expand(len(images), -1, -1)
        else:
            pixels = torch.cat([image.pixels for image in images]).float()
        for index, layer in enumerate(self._encoder):
            if index:
                pixels = self._among_pixels(layer, pixels, codes)
            pixels = add_from_tokens(layer.cross_attn, layer.layer_norm2, pixels, tokens, mask)
            self._add_mlp(layer, pixels)
        size = (coarse.shape[-2], coarse.shape[-1])
        queries, boxes, presence = self._queries(pixels, pixels + codes, size, tokens, mask)
        logits = self._model.dot_product_scoring(queries[None], tokens, mask)[0, :, :, 0]
        centre, side = boxes[..., :2], boxes[..., 2:]
        corners = torch.cat([centre - side / 2, centre + side / 2], dim=-1)
        return Found(logits.sigmoid() * presence.sigmoid(), corners, queries, pixels)

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
        pixels = add_from_tokens(
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

    def _codes(self, coarse: Tensor) -> Tensor:
        """Position codes `float32[N, C]` of the coarsest level; the same for every image."""
        size = (coarse.shape[-2], coarse.shape[-1])
        codes = self._positions.get(size)
        if codes is None:
            planes: Tensor = self._model.vision_encoder.neck.position_encoding(
                torch.Size((1, coarse.shape[1], *size)), coarse.device, torch.float32
            )
            codes = self._positions[size] = planes[0].flatten(1).T.contiguous()
        return codes

    def _among_pixels(self, layer: Any, pixels: Tensor, codes: Tensor) -> Tensor:
        """An encoder layer's self-attention: `[B, N, C]` to the same, a copy."""
        hidden = layer.layer_norm1(pixels)
        placed = hidden + codes
        attention = layer.self_attn
        queries, keys, values = (
            heads_of(linear(projection, rows, self._dtype), attention)
            for projection, rows in (
                (attention.q_proj, placed),
                (attention.k_proj, placed),
                (attention.v_proj, hidden),
            )
        )
        found = F.scaled_dot_product_attention(queries, keys, values)
        return pixels + linear(attention.o_proj, found.transpose(1, 2).flatten(2), self._dtype)

    def _add_mlp(self, layer: Any, pixels: Tensor) -> None:
        """An encoder layer's MLP, in place."""
        mlp = layer.mlp
        rows = pixels.flatten(0, 1)
        step = len(rows) if rows.is_cuda else _MLP_ROWS
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            hidden = linear(mlp.fc1, layer.layer_norm3(part), self._dtype)
            if isinstance(mlp.activation_fn, torch.nn.ReLU):
                hidden = hidden.relu_()
            else:
                hidden = mlp.activation_fn(hidden)
            part += linear(mlp.fc2, hidden, self._dtype)
