"""SAM 3's image encoder on its own: its output serves the concept side and the visual side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Sam3LiteTextModel, Sam3Model, Sam3Processor
from transformers.models.sam3.modeling_sam3 import Sam3ViTModel

from inference_server.engines.base import Candidates, Embedding, Prepared, Query
from inference_server.engines.device import Compute
from inference_server.engines.features import Features, SquareInput
from inference_server.engines.resize import Normalizer
from inference_server.engines.sam3.fast_vit import FastViT


@dataclass(frozen=True, slots=True)
class TrunkImage(Features):
    """The image encoder's output for `B` images.

    Attributes:
        hidden: `[B, h * w, D]`, the last hidden state.
    """

    hidden: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The last hidden state."""
        return (self.hidden,)

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> TrunkImage:
        """From the last hidden state."""
        return cls(*tensors)


def encoded_planes(images: Sequence[Prepared], compute: Compute) -> Tensor:
    """The image encoder's output for images that it has encoded.

    Args:
        images: Images whose `pixels` are a `TrunkImage` of one image.
        compute: Device and dtypes.

    Returns:
        `[B, D, h, w]` in the dtype of the computation.
    """
    encoded: list[TrunkImage] = [image.pixels for image in images]
    return planes_of(torch.cat([each.hidden for each in encoded]).to(compute.dtype))


def planes_of(hidden: Tensor) -> Tensor:
    """View `[B, h * w, D]`, of a square image, as `[B, D, h, w]`."""
    batch, count, channels = hidden.shape
    side = math.isqrt(count)
    return hidden.view(batch, side, side, channels).permute(0, 3, 1, 2)


class TrunkEngine(SquareInput):
    """Runs SAM 3's image encoder, without the necks that follow it.

    Args:
        model: The model with its weights, on the device, in evaluation mode.
        processor: Its processor.
        checkpoint: Name of the weights.
        compute: Device and dtypes.
        release: Whether to free the parameters of the model's image encoder, which is not usable
            afterwards, so that they are in memory once. The default keeps them.

    Attributes:
        encoder: The image encoder of our own, or None if the model has another than SAM 3's; that
            one runs under autocast.
    """

    def __init__(
        self,
        model: Sam3Model | Sam3LiteTextModel,
        processor: Sam3Processor,
        checkpoint: str,
        compute: Compute,
        *,
        release: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.weight_bytes = 0  # it shares those of the engine that answers words
        self._backbone: Any = model.vision_encoder.backbone
        self.encoder = (
            FastViT(self._backbone, compute.dtype, release=release)
            if isinstance(self._backbone, Sam3ViTModel)
            else None
        )
        self._compute = compute
        image_processor = processor.image_processor
        self._normalize = Normalizer(
            image_processor.image_mean, image_processor.image_std, compute.device
        )
        self._side = int(image_processor.size["height"])

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
        return self._side

    @torch.inference_mode()
    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """Encode images; one embedding per image, whose features are a `TrunkImage`."""
        hidden = self._hidden(images)
        return TrunkImage(hidden).to(self._compute.cache_dtype).embeddings(images)

    @torch.inference_mode()
    def planes(self, images: Sequence[Prepared]) -> Tensor:
        """Encode images, or take the output of those that are encoded already.

        Args:
            images: All from `prepare`, or all with a `TrunkImage` as their `pixels`.

        Returns:
            `[B, D, h, w]`, the input of the necks.
        """
        if all(isinstance(image.pixels, TrunkImage) for image in images):
            return encoded_planes(images, self._compute)
        return planes_of(self._hidden(images))

    def _hidden(self, images: Sequence[Prepared]) -> Tensor:
        """Run the encoder; `[B, h * w, D]`."""
        batch = self._normalize([image.pixels for image in images])
        if self.encoder is not None:
            return self.encoder(batch)
        with self._compute.autocast():
            hidden: Tensor = self._backbone(batch).last_hidden_state
        return hidden

    def decode(self, queries: Sequence[Query[Any]]) -> list[Candidates]:
        """Raise an error: prompts are decoded on what the necks make of the output."""
        raise TypeError("SAM 3's image encoder decodes no prompts")
