"""SAM 3's geometry encoder: exemplar boxes to tokens.

It uses the weights of `Sam3GeometryEncoder`, and its results equal that module's. Unlike the module
it never waits for the device: the module copies a constant to it in each call, and asks it whether
any box is padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align
from transformers.models.sam3.modeling_sam3 import concat_padded_sequences


class ExemplarEncoder:
    """`Sam3GeometryEncoder` for inference. Thread-safe.

    Args:
        encoder: `Sam3GeometryEncoder` with its weights.
    """

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def __call__(self, pixels: Tensor, positions: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Embed the exemplar boxes of B prompts.

        Args:
            pixels: `float32[B, C, h, w]`, features of the coarsest level.
            positions: `float32[h * w, C]`, their position encodings.
            boxes: `float32[B, K, 4]`, centre x, centre y, width, height as fractions of the image's
                sides.
            labels: `int64[B, K]`, 1 for an exemplar, 0 for a counter-example, negative for padding,
                which comes last.

        Returns:
            Tokens, `float32[B, K + 1, C]`; of a prompt with k boxes, the first k + 1 are valid.
        """
        encoder = self._encoder
        batch = len(boxes)
        valid = labels >= 0
        tokens = self._embed(pixels, boxes, labels.where(valid, 0))
        last = encoder.cls_embed.weight.view(1, 1, -1).expand(batch, -1, -1)
        tokens, valid = concat_padded_sequences(tokens, valid, last, valid.new_ones(batch, 1))
        tokens = encoder.prompt_layer_norm(encoder.final_proj(tokens))
        # Added to the scores, which all implementations of attention can do.
        mask = torch.zeros_like(valid, dtype=tokens.dtype).masked_fill(~valid, -torch.inf)
        rows = pixels.flatten(2).transpose(1, 2)
        for layer in encoder.layers:
            tokens = layer(
                prompt_feats=tokens,
                vision_feats=rows,
                vision_pos_encoding=positions.expand(batch, -1, -1),
                prompt_mask=mask[:, None, None].expand(-1, -1, tokens.shape[1], -1),
            )
        embedded: Tensor = encoder.output_layer_norm(tokens)
        return embedded

    def _embed(self, pixels: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """The sum of a box's coordinates, pixels, position and label, `float32[B, K, C]`."""
        encoder = self._encoder
        batch, count, _ = boxes.shape
        height, width = pixels.shape[-2:]
        normalized = encoder.vision_layer_norm(pixels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x, y, w, h = boxes.unbind(-1)
        corners = [
            (x - 0.5 * w) * width,
            (y - 0.5 * h) * height,
            (x + 0.5 * w) * width,
            (y + 0.5 * h) * height,
        ]
        sampled = roi_align(normalized, list(torch.stack(corners, -1).unbind(0)), encoder.roi_size)
        pooled = encoder.boxes_pool_project(sampled).view(batch, count, -1)
        places = encoder._encode_box_coordinates(*(part.flatten() for part in (x, y, w, h)))
        placed = encoder.boxes_pos_enc_project(places.view(batch, count, -1))
        embedded: Tensor = (
            encoder.label_embed(labels) + encoder.boxes_direct_project(boxes) + pooled + placed
        )
        return embedded
