"""The SAM 2 engine: promptable visual segmentation (PVS), one object per prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

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
from inference_server.engines.sam2.fast_hiera import FastImageEncoder, UnsupportedEncoderError

logger = logging.getLogger(__name__)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue, 0 to 1: those of `sam2.utils.transforms.SAM2Transforms`. Its import would
take as long as that of everything else that SAM 2 needs, because it imports `torchvision`."""


class _Encoder(Protocol):
    """An image encoder; see `FastImageEncoder`."""

    weight_bytes: int

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]: ...


class ReferenceEncoder:
    """The model's own image encoder, for architectures that `FastImageEncoder` does not know.

    Args:
        model: The model with its weights, on the device, in evaluation mode.
        compute: Device and dtypes; bfloat16 is that of autocast.

    Attributes:
        weight_bytes: Memory of the weights in bytes.
    """

    def __init__(self, model: SAM2Base, compute: Compute) -> None:
        self.weight_bytes = bytes_of(model.image_encoder)
        self._model: Any = model
        self._compute = compute

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode a batch of images; see `FastImageEncoder.__call__`."""
        with self._compute.autocast():
            output = self._model.forward_image(images)
            _, levels, _, sizes = self._model._prepare_backbone_features(output)
        # [HW, B, C] -> [B, C, H, W], finest level first.
        *fine, coarse = (
            level.permute(1, 2, 0).unflatten(2, size)
            for level, size in zip(levels, sizes, strict=True)
        )
        return coarse, fine


class VisualEngine(SquareInput):
    """An `Engine` of SAM 2, with the arithmetic of `SAM2ImagePredictor`.

    It does not keep the model, so that the weights of the image encoder are in memory once if the
    caller does not keep it either.

    Args:
        model: The model with its weights, on the device, in evaluation mode.
        checkpoint: Name of the weights, for display.
        compute: Device and dtypes.
    """

    def __init__(self, model: SAM2Base, checkpoint: str, compute: Compute) -> None:
        self.checkpoint = checkpoint
        self._compute = compute
        self._encoder = _encoder_of(model, checkpoint, compute)
        prompts, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
        added = model.directly_add_no_mem_embed
        self._no_memory = model.no_mem_embed.detach().view(1, -1, 1, 1) if added else None
        self.weight_bytes = self._encoder.weight_bytes + bytes_of(prompts, decoder)
        self._side: int = model.image_size
        self._decoder = FastMaskDecoder(decoder, prompts, compute.dtype)
        self._predictor = MaskPredictor(prompts, self._decoder, model.image_size, compute)
        self._normalize = Normalizer(MEAN, STD, compute.device)

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
        return self._side

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
        coarse, fine = self._encoder(batch)
        coarse = coarse.float()
        if self._no_memory is not None:
            coarse = coarse + self._no_memory
        prepared = self._decoder.prepare(coarse, [level.float() for level in fine])
        return prepared.to(self._compute.cache_dtype).embeddings(images)

    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts; see `MaskPredictor`."""
        return self._predictor.decode(queries)


def _encoder_of(model: SAM2Base, checkpoint: str, compute: Compute) -> _Encoder:
    """The fastest image encoder for a model."""
    try:
        return FastImageEncoder(model, compute.dtype)
    except UnsupportedEncoderError as error:
        logger.info("%s: using the image encoder of the package sam2 (%s)", checkpoint, error)
        return ReferenceEncoder(model, compute)
