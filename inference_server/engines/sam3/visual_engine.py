"""PVS with SAM 3's own visual head, on the image encoder that concepts use as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from inference_server.engines.base import Candidates, Embedding, Prepared, Query, VisualPrompt
from inference_server.engines.device import Compute
from inference_server.engines.features import SquareInput, bytes_of
from inference_server.engines.linear import cast_weights
from inference_server.engines.mask_decoder import FastMaskDecoder
from inference_server.engines.mask_predictor import MaskPredictor
from inference_server.engines.sam3.trunk import encoded_planes
from inference_server.engines.sam3.visual_head import VisualHead


class Sam3VisualEngine(SquareInput):
    """SAM 3's visual head behind the engine protocol; the arithmetic of `Sam3TrackerModel`.

    Args:
        head: The head with its weights, on the device, in evaluation mode.
        checkpoint: Name of the weights.
        compute: Device and dtypes.
        owned: Whether the head is this engine's own, which may convert its weights to the dtype
            that they are used in. The default leaves them as they are.
    """

    def __init__(
        self, head: VisualHead, checkpoint: str, compute: Compute, *, owned: bool = False
    ) -> None:
        self.checkpoint = checkpoint
        self.weight_bytes = bytes_of(head)
        self._head = head
        if owned:
            decoder: Any = head.mask_decoder
            cast_weights(compute.dtype, head.levels, decoder.conv_s0, decoder.conv_s1)
        self._compute = compute
        self._decoder = FastMaskDecoder(
            head.mask_decoder,
            head.prompt_encoder,
            compute.dtype,
            positions=head.dense_positions(),
            # They would make the image a third larger; without them a click takes as long.
            project=False,
        )
        self._predictor = MaskPredictor(head.prompt_encoder, self._decoder, head.side, compute)

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
        return self._head.side

    @torch.inference_mode()
    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """Make what the decoder reads from the image encoder's output.

        Args:
            images: Images whose `pixels` are a `TrunkImage`.

        Returns:
            One embedding per image.
        """
        with self._compute.autocast():
            coarse, fine = self._head.features(encoded_planes(images, self._compute))
        prepared = self._decoder.prepare(coarse.float(), [level.float() for level in fine])
        return prepared.to(self._compute.cache_dtype).embeddings(images)

    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts; see `MaskPredictor`."""
        return self._predictor.decode(queries)
