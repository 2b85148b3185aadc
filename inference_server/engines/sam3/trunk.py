"""SAM 3's image encoder on its own: its output serves the concept side and the visual side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Sam3Model, Sam3Processor

from inference_server.engines.base import Candidates, Embedding, Prepared, Query
from inference_server.engines.device import Compute
from inference_server.engines.features import Features, SquareInput
from inference_server.engines.resize import Normalizer


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


def hidden_states(images: Sequence[Prepared], compute: Compute) -> Tensor:
    """The image encoder's output for images that it has encoded.

    Args:
        images: Images whose `pixels` are a `TrunkImage` of one image.
        compute: Device and dtypes.

    Returns:
        `[B, h * w, D]` in the dtype of the computation.
    """
    encoded: list[TrunkImage] = [image.pixels for image in images]
    return torch.cat([each.hidden for each in encoded]).to(compute.dtype)


class TrunkEngine(SquareInput):
    """Runs SAM 3's image encoder, without the necks that follow it.

    Args:
        model: The model with its weights, on the device, in evaluation mode.
        processor: Its processor.
        checkpoint: Name of the weights.
        compute: Device and dtypes.
    """

    def __init__(
        self, model: Sam3Model, processor: Sam3Processor, checkpoint: str, compute: Compute
    ) -> None:
        self.checkpoint = checkpoint
        self._encoder: Any = model.vision_encoder.backbone
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
        batch = self._normalize([image.pixels for image in images])
        with self._compute.autocast():
            hidden = self._encoder(batch).last_hidden_state
        return TrunkImage(hidden).to(self._compute.cache_dtype).embeddings(images)

    def decode(self, queries: Sequence[Query[Any]]) -> list[Candidates]:
        """Raise an error: prompts are decoded on what the necks make of the output."""
        raise TypeError("SAM 3's image encoder decodes no prompts")
