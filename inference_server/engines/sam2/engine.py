"""The SAM 2 engine: promptable visual segmentation (PVS), one object per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.utils.transforms import SAM2Transforms

from inference_server.engines.base import (
    Candidates,
    Embedding,
    Prepared,
    Query,
    VisualPrompt,
)
from inference_server.engines.device import Compute
from inference_server.engines.features import SquareInput, bytes_of
from inference_server.engines.mask_decoder import FastMaskDecoder
from inference_server.engines.mask_predictor import MaskPredictor
from inference_server.engines.resize import Normalizer


class VisualEngine(SquareInput):
    """An `Engine` of SAM 2, with the arithmetic of `SAM2ImagePredictor`.

    Args:
        model: The model with its weights, on the device, in evaluation mode.
        checkpoint: Name of the weights, for display.
        compute: Device and dtypes.
    """

    def __init__(self, model: SAM2Base, checkpoint: str, compute: Compute) -> None:
        self.checkpoint = checkpoint
        self.weight_bytes = bytes_of(model)
        self._model = model
        self._compute = compute
        prompts = model.sam_prompt_encoder
        self._decoder = FastMaskDecoder(model.sam_mask_decoder, prompts, compute.dtype)
        self._predictor = MaskPredictor(prompts, self._decoder, model.image_size, compute)
        transforms: Any = SAM2Transforms(  # type: ignore[no-untyped-call]
            resolution=model.image_size, mask_threshold=0.0
        )
        self._normalize = Normalizer(transforms.mean, transforms.std, compute.device)

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
        side: int = self._model.image_size
        return side

    @torch.inference_mode()
    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """Encode a batch of images.

        Args:
            images: Images from `prepare`.

        Returns:
            One embedding per image, in order, including what the decoder computes independently of
            the prompt.
        """
        batch = self._normalize([image.pixels for image in images])
        with self._compute.autocast():
            output = self._model.forward_image(batch)
            _, levels, _, sizes = self._model._prepare_backbone_features(output)  # type: ignore[no-untyped-call]
        if self._model.directly_add_no_mem_embed:
            levels[-1] = levels[-1] + self._model.no_mem_embed
        # [HW, B, C] -> [B, C, H, W], finest level first.
        *fine, coarse = (
            level.float().permute(1, 2, 0).unflatten(2, size)
            for level, size in zip(levels, sizes, strict=True)
        )
        prepared = self._decoder.prepare(coarse, fine)
        return prepared.to(self._compute.cache_dtype).embeddings(images)

    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts; see `MaskPredictor`."""
        return self._predictor.decode(queries)
