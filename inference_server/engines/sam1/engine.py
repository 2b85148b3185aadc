"""The SAM 1 engine: promptable visual segmentation (PVS), one object per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import SamImageProcessor, SamModel

from inference_server.engines.base import (
    Candidates,
    Embedding,
    Prepared,
    Query,
    RGBImage,
    VisualPrompt,
)
from inference_server.engines.device import Compute
from inference_server.engines.features import bytes_of
from inference_server.engines.linear import cast_weights
from inference_server.engines.mask_decoder import FastMaskDecoder
from inference_server.engines.resize import Normalizer
from inference_server.engines.sam1.fit import padded, prepare
from inference_server.engines.sam1.head import PromptHead
from inference_server.engines.sam1.predictor import FittedMaskPredictor


class Sam1Engine:
    """An `Engine` of SAM 1, with the arithmetic of `SamModel` and `SamProcessor`.

    Args:
        model: The model with its weights, on the device, in evaluation mode.
        processor: The model's image processor, for mean and standard deviation.
        checkpoint: Name of the weights, for display.
        compute: Device and dtypes.
        owned: Whether the model is this engine's own, which may convert its weights to the dtype
            that they are used in. The default leaves them as they are.

    Raises:
        RuntimeError: The model's prompt encoder or mask decoder is not one of SAM 1.
    """

    def __init__(
        self,
        model: SamModel,
        processor: SamImageProcessor,
        checkpoint: str,
        compute: Compute,
        *,
        owned: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self._compute = compute
        encoder: Any = model.vision_encoder
        self._encoder = encoder
        if owned:
            cast_weights(compute.dtype, encoder)
        head = PromptHead(model.config)
        head.load(model.state_dict())
        head.to(compute.device).eval().requires_grad_(False)
        self.weight_bytes = bytes_of(encoder, head)
        # Without projections, an image takes 4 MB instead of 10, and a click 44 ms instead of 38.
        self._decoder = FastMaskDecoder(head.mask_decoder, head.prompt_encoder, compute.dtype)
        self._predictor = FittedMaskPredictor(
            head.prompt_encoder, self._decoder, self.side, compute
        )
        self._normalize = Normalizer(processor.image_mean, processor.image_std, compute.device)

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
        side: int = self._encoder.image_size
        return side

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        """Resize an image, keeping its aspect ratio; see `Engine.prepare`."""
        return prepare(pixels, self.side, size, extent)

    @torch.inference_mode()
    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """Encode a batch of images.

        Args:
            images: Images from `prepare`.

        Returns:
            One embedding per image, in order.
        """
        batch = padded([image.pixels for image in images], self.side, self._normalize)
        # Its position tables are made on the default device.
        with self._compute.autocast(), self._compute.device:
            encoded = self._encoder(batch).last_hidden_state
        prepared = self._decoder.prepare(encoded.float(), [])
        return prepared.to(self._compute.cache_dtype).embeddings(images)

    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts; see `FittedMaskPredictor`."""
        return self._predictor.decode(queries)
