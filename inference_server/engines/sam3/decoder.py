"""SAM 3 after its encoders, reordered so that image-only parts are computed once per image.

It uses the weights of `transformers.Sam3Model`, and its results equal those of `Sam3Model.forward`
after the vision and text encoders, up to rounding. The order of operations differs:

* Everything that does not depend on the prompt is computed once per image: the self-attention of
  the first encoder layer, and the skip connections of the pixel decoder.
* Where 5184 pixels attend to T tokens, `(x Wq) k'` is computed as `x (Wq k')`, and values and
  outputs likewise: products of `[N, C]` with `[C, heads * T]` instead of with square matrices.
  Padding tokens of a text have no weight in any attention and are omitted: T is 4 for "red circle",
  not 32.
* Scores come first. Masks are computed only for candidates above the threshold, directly from the
  pixel decoder's last features: the projection between them is folded into the queries. Without
  such candidates the pixel decoder does not run.
* The semantic head and the intermediate scores are unused, so they are not computed.

See also `detr_decoder` and `pixel_decoder`. Measured for one text at SAM 3's size, in seconds on
one core: the original 6.4, this decoder 3.9 with four masks and 3.5 without masks. Of these, 2.1
are the attention among 5184 pixels in five encoder layers. There, PyTorch's kernel is within a
tenth of the best hand-written sequence of products and exponentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor
from transformers import Sam3LiteTextModel, Sam3Model

from inference_server.engines.cuda_graphs import Graphs, bucket
from inference_server.engines.features import Features
from inference_server.engines.sam3.attention import add_cross_attention, linear, split_heads
from inference_server.engines.sam3.detr_decoder import FastQueryDecoder
from inference_server.engines.sam3.exemplars import ExemplarEncoder
from inference_server.engines.sam3.pixel_decoder import BAND, FastPixelDecoder

MLP_ROWS = 1296
"""Default number of pixels per call of an encoder layer's MLP on a CPU. Its hidden layer is 8 times
as wide as a pixel; for this many pixels it fits in the CPU's cache."""

_GRAPHED = 8
"""Maximum prompts of a CUDA graph."""

_TOKENS = 8
"""The number of tokens of a CUDA graph is a multiple of this."""


@dataclass(frozen=True, slots=True)
class ConceptImage(Features):
    """Image-only inputs of the decoder for `B` images of `N = h * w` pixels at the coarsest level.

    Attributes:
        coarse: `[B, C, h, w]`, features of the coarsest level, which exemplars attend to.
        pixels: `[B, N, C]`, the same features after the encoder's first self-attention.
        skips: For each finer level, coarse to fine, `[B, P, h, w, C]`: the skip connection of the
            pixel decoder, see `FastPixelDecoder.prepare`.
    """

    coarse: Tensor
    pixels: Tensor
    skips: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the attributes."""
        return (self.coarse, self.pixels, *self.skips)

    @property
    def plane_size(self) -> tuple[int, int]:
        """(height, width) of a mask plane in pixels."""
        if not self.skips:
            return (self.coarse.shape[2], self.coarse.shape[3])
        _, places, height, width, _ = self.skips[-1].shape
        return (height, width) if places == 1 else (2 * height, 2 * width)

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> ConceptImage:
        """Create images from tensors in the order of the attributes."""
        coarse, pixels, *skips = tensors
        return cls(coarse, pixels, tuple(skips))


@dataclass(frozen=True, slots=True)
class Detections:
    """Candidates of `B` prompts, without masks.

    Attributes:
        scores: `float32[B, Q]`, confidence that the candidate is an instance of the concept, 0 to
            1.
        boxes: `float32[B, Q, 4]`, x0, y0, x1, y1 as fractions of the image's sides.
        queries: `float32[B, Q, C]`, the object queries, from which masks are computed.
        pixels: `float32[B, N, C]`, the image after attention to the prompt.
    """

    scores: Tensor
    boxes: Tensor
    queries: Tensor
    pixels: Tensor


class FastConceptDecoder:
    """SAM 3 from features to masks, for inference. Thread-safe.

    Args:
        model: The model with its weights, on the device, in evaluation mode.
        dtype: Dtype of products as large as the image. Sums, tokens and the attention to tokens
            stay in float32.
        mlp_rows: Pixels per call of an encoder layer's MLP on a CPU; default 1296. On a GPU all
            pixels go through at once.
        band: Pixels that the pixel decoder upsamples at a time on a CPU; default 2048.
        graphs: CUDA graphs for the detection on one image; None (the default) for none.
    """

    def __init__(
        self,
        model: Sam3Model | Sam3LiteTextModel,
        dtype: torch.dtype,
        *,
        mlp_rows: int = MLP_ROWS,
        band: int = BAND,
        graphs: Graphs | None = None,
    ) -> None:
        self._model: Any = model
        self._graphs = graphs
        self._dtype = dtype
        self._mlp_rows = mlp_rows
        self._encoder: list[Any] = list(model.detr_encoder.layers)
        self._queries = FastQueryDecoder(model.detr_decoder, dtype)
        self._exemplars = ExemplarEncoder(model.geometry_encoder)
        self._masks: Any = model.mask_decoder
        self._pixel_decoder = FastPixelDecoder(model.mask_decoder.pixel_decoder, dtype, band=band)
        self._positions: dict[tuple[int, int], Tensor] = {}
        projection: Any = self._masks.instance_projection
        self._projection: Tensor = projection.weight.flatten(1)
        self._projection_bias: Tensor = projection.bias

    def prepare(self, levels: Sequence[Tensor]) -> ConceptImage:
        """Compute what does not depend on the prompt, once per image.

        Args:
            levels: Features of the vision encoder, `[B, C, H, W]` each, finest first, without the
                coarsest one, which the model ignores.

        Returns:
            A batch of `B` images in the decoder's dtype.
        """
        coarse = levels[-1]
        pixels = self._add_self_attention(
            self._encoder[0],
            coarse.float().flatten(2).transpose(1, 2),
            self._position_encodings(coarse),
        )
        skips = self._pixel_decoder.prepare(list(levels))
        return ConceptImage(
            coarse.to(self._dtype).contiguous(), pixels.to(self._dtype).contiguous(), skips
        )

    def exemplars(self, images: Sequence[ConceptImage], boxes: Tensor, labels: Tensor) -> Tensor:
        """Embed exemplar boxes; see `ExemplarEncoder`.

        Args:
            images: One image for each of B prompts, each a batch of one.
            boxes: `float32[B, K, 4]`, centre x, centre y, width, height as fractions of the image's
                sides.
            labels: `int64[B, K]`, 1 for an exemplar, 0 for a counter-example, -10 for padding,
                which comes last.

        Returns:
            Tokens, `float32[B, K + 1, C]`; of a prompt with k boxes, the first k + 1 are valid.
        """
        coarse = torch.cat([image.coarse for image in images]).float()
        return self._exemplars(coarse, self._position_encodings(coarse), boxes, labels)

    def detect(
        self, images: Sequence[ConceptImage], tokens: Tensor, mask: Tensor | None
    ) -> Detections:
        """Score the candidates of prompts.

        Args:
            images: One image for each of B prompts, each a batch of one.
            tokens: `float32[B, T, C]`, embedded words and exemplars.
            mask: `bool[B, T]`, the tokens that are not padding; None if none is.

        Returns:
            One candidate for each object query of the model, in the model's order.
        """
        coarse = images[0].coarse
        size = (coarse.shape[-2], coarse.shape[-1])
        codes = self._position_encodings(coarse)
        shared = all(image is images[0] for image in images)
        pixels = images[0].pixels if shared else torch.cat([image.pixels for image in images])
        padded = bucket(len(tokens), _GRAPHED) if shared else None
        if self._graphs is None or not self._graphs.enabled or padded is None:
            return Detections(*self._detected(pixels, codes, size, tokens, mask))
        found = self._graphs(
            ("detect", size),
            lambda given: self._detected(given[0], codes, size, given[1], given[2]),
            [pixels, *_padded(tokens, mask, padded)],
        )
        return Detections(*(each[: len(tokens)] for each in found))

    def _detected(
        self,
        pixels: Tensor,
        codes: Tensor,
        size: tuple[int, int],
        tokens: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Score the candidates of prompts; see `detect` and `Detections`.

        Args:
            pixels: `[B, N, C]`, or `[1, N, C]` if the prompts share an image.
            codes: `float32[N, C]`, position encodings.
            size: (h, w), rows and columns of pixels.
            tokens: `float32[B, T, C]`.
            mask: `bool[B, T]` or None.
        """
        pixels = pixels.float().expand(len(tokens), -1, -1)
        for index, layer in enumerate(self._encoder):
            if index:
                pixels = self._add_self_attention(layer, pixels, codes)
            pixels = add_cross_attention(layer.cross_attn, layer.layer_norm2, pixels, tokens, mask)
            self._add_mlp(layer, pixels)
        queries, boxes, presence = self._queries(pixels, pixels + codes, size, tokens, mask)
        logits = self._model.dot_product_scoring(queries[None], tokens, mask)[0, :, :, 0]
        centre, side = boxes[..., :2], boxes[..., 2:]
        corners = torch.cat([centre - side / 2, centre + side / 2], dim=-1)
        return logits.sigmoid() * presence.sigmoid(), corners, queries, pixels

    def masks(
        self,
        image: ConceptImage,
        detections: Detections,
        index: int,
        kept: Tensor,
        tokens: Tensor,
    ) -> Tensor:
        """Compute the masks of some of one prompt's candidates.

        Args:
            image: The prompt's image, a batch of one.
            detections: Candidates of all prompts.
            index: Index of the prompt in `detections`.
            kept: `int64[K]`, indices of the candidates.
            tokens: `float32[1, T, C]`, the prompt's tokens without padding.

        Returns:
            Logits, `float32[K, H, W]`.
        """
        masks = self._masks
        pixels = add_cross_attention(
            masks.prompt_cross_attn,
            masks.prompt_cross_attn_norm,
            detections.pixels[index : index + 1],
            tokens,
            None,
        )
        queries = masks.mask_embedder(detections.queries[index, kept])
        height, width = image.coarse.shape[-2:]
        planes = self._pixel_decoder(
            pixels[0].to(self._dtype).view(height, width, -1),
            tuple(skip[0] for skip in image.skips),
            queries @ self._projection,
        )
        return planes.add_((queries @ self._projection_bias)[:, None, None])

    def _position_encodings(self, coarse: Tensor) -> Tensor:
        """Position encodings of the coarsest level, `float32[N, C]`; the same for every image."""
        size = (coarse.shape[-2], coarse.shape[-1])
        codes = self._positions.get(size)
        if codes is None:
            planes: Tensor = self._model.vision_encoder.neck.position_encoding(
                torch.Size((1, coarse.shape[1], *size)), coarse.device, torch.float32
            )
            codes = self._positions[size] = planes[0].flatten(1).T.contiguous()
        return codes

    def _add_self_attention(self, layer: Any, pixels: Tensor, codes: Tensor) -> Tensor:
        """An encoder layer's self-attention, added to the pixels `[B, N, C]`; a copy."""
        hidden = layer.layer_norm1(pixels)
        positioned = hidden + codes
        attention = layer.self_attn
        queries, keys, values = (
            split_heads(linear(projection, rows, self._dtype), attention)
            for projection, rows in (
                (attention.q_proj, positioned),
                (attention.k_proj, positioned),
                (attention.v_proj, hidden),
            )
        )
        found = F.scaled_dot_product_attention(queries, keys, values)
        return pixels + linear(attention.o_proj, found.transpose(1, 2).flatten(2), self._dtype)

    def _add_mlp(self, layer: Any, pixels: Tensor) -> None:
        """An encoder layer's MLP, added to the pixels in place."""
        mlp = layer.mlp
        rows = pixels.flatten(0, 1)
        step = len(rows) if rows.is_cuda else self._mlp_rows
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            hidden = linear(mlp.fc1, layer.layer_norm3(part), self._dtype)
            if isinstance(mlp.activation_fn, torch.nn.ReLU):
                hidden = hidden.relu_()
            else:
                hidden = mlp.activation_fn(hidden)
            part += linear(mlp.fc2, hidden, self._dtype)


def _padded(tokens: Tensor, mask: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
    """Pad prompts to few shapes, for graphs: what is added does not change the others' results.

    Args:
        tokens: `[B, T, C]`.
        mask: `bool[B, T]`, the tokens that are not padding; None if none is.
        batch: Number of prompts to pad to.

    Returns:
        `[batch, T', C]` and `bool[batch, T']`, T' a multiple of 8.
    """
    count, length, _ = tokens.shape
    more = -length % _TOKENS
    if mask is None:
        mask = tokens.new_ones(count, length, dtype=torch.bool)
    tokens, mask = F.pad(tokens, (0, 0, 0, more)), F.pad(mask, (0, more))
    last = [tokens[-1:]] * (batch - count), [mask[-1:]] * (batch - count)
    return torch.cat([tokens, *last[0]]), torch.cat([mask, *last[1]])
