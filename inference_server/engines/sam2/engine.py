"""The SAM 2 engine: promptable visual segmentation (PVS), one object per prompt."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from inference_server.engines.features import SquareInput
from inference_server.engines.resize import Normalizer
from inference_server.engines.sam2.mask_decoder import DecoderImage, FastMaskDecoder

_LOGIT_LIMIT = 32.0
"""SAM 2 clamps logits that serve as mask inputs to plus and minus this value."""


class VisualEngine(SquareInput):
    """An `Engine` of SAM 2, with the arithmetic of `SAM2ImagePredictor`.

    Args:
        model: The model with its weights, on the device, in evaluation mode.
        checkpoint: Name of the weights, for display.
        compute: Device and dtypes.
    """

    def __init__(self, model: SAM2Base, checkpoint: str, compute: Compute) -> None:
        self.checkpoint = checkpoint
        self._model = model
        self._compute = compute
        self._decoder = FastMaskDecoder(
            model.sam_mask_decoder, model.sam_prompt_encoder, compute.dtype
        )
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

    @torch.inference_mode()
    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts; prompts of the same kind share a forward pass, also on different images.

        Prompts with different numbers of points do not share one. Padding would allow it, but SAM 2
        attends to padding points, so a result would depend on the other prompts.

        Args:
            queries: Prompts, each with its image. A prompt without points and box is SAM 2's empty
                prompt.

        Returns:
            One result per query, in order.
        """
        groups: defaultdict[tuple[int, bool, bool, bool], list[int]] = defaultdict(list)
        for index, query in enumerate(queries):
            prompt = query.prompt
            tokens = len(prompt.points) + (0 if prompt.box is None else 2)
            refines = prompt.mask_input is not None
            groups[tokens, refines, query.multimask, query.best].append(index)
        results: dict[int, Candidates] = {}
        for indices in groups.values():
            group = self._forward([queries[i] for i in indices])
            results.update(zip(indices, group, strict=True))
        return [results[index] for index in range(len(queries))]

    def _forward(self, queries: list[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts of the same kind in one forward pass."""
        device = self._compute.device
        coordinates, labels = self._tokens(queries)
        points = None
        if coordinates.shape[1]:
            points = (
                torch.from_numpy(coordinates).to(device),
                torch.from_numpy(labels).to(device),
            )
        inputs = [q.prompt.mask_input for q in queries if q.prompt.mask_input is not None]
        masks = torch.from_numpy(np.stack(inputs))[:, None].to(device) if inputs else None
        encoder = self._model.sam_prompt_encoder
        sparse, dense = encoder(points=points, boxes=None, masks=masks)
        logits, quality, counts = self._decoder(
            self._images([query.embedding for query in queries]),
            sparse.expand(len(queries), -1, -1),
            None if masks is None else dense,
            multimask=queries[0].multimask,
            best=queries[0].best,
            min_iou=self._thresholds(queries),
        )
        ends = np.cumsum(counts)[:-1]
        planes = np.split(logits.cpu().numpy(), ends)
        scores = np.split(quality.cpu().numpy(), ends)
        return [
            Candidates(
                plane, 0.0, score, plane.clip(-_LOGIT_LIMIT, _LOGIT_LIMIT) if query.logits else None
            )
            for query, plane, score in zip(queries, planes, scores, strict=True)
        ]

    def _thresholds(self, queries: list[Query[VisualPrompt]]) -> torch.Tensor | None:
        """Minimum predicted IoU of each query's candidates, `float32[N]`; None to keep all."""
        thresholds = [query.prompt.threshold or -math.inf for query in queries]
        if max(thresholds) == -math.inf:
            return None
        return torch.tensor(thresholds, dtype=torch.float32, device=self._compute.device)

    def _images(self, embeddings: list[Embedding]) -> DecoderImage:
        """A batch of one image if all queries share it, else a batch with one image per query."""
        first: DecoderImage = embeddings[0].features
        if all(embedding.features is first for embedding in embeddings):
            return first.to(self._compute.dtype)
        return DecoderImage.stack([embedding.features for embedding in embeddings]).to(
            self._compute.dtype
        )

    def _tokens(
        self, queries: list[Query[VisualPrompt]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Convert prompts to points; a box is two points.

        Returns:
            Coordinates `[N, K, 2]` in pixels of the model's input, and labels `[N, K]`.
        """
        coordinates, labels = [], []
        for query in queries:
            height, width = query.embedding.size
            scale = np.array([1 / width, 1 / height], np.float32) * self._model.image_size
            prompt = query.prompt
            corners = np.empty((0, 2), np.float32)
            if prompt.box is not None:
                corners = prompt.box.reshape(2, 2)
            coordinates.append(np.concatenate([corners, prompt.points]) * scale)
            labels.append(np.concatenate([[2, 3][: len(corners)], prompt.labels]))
        return np.stack(coordinates).astype(np.float32), np.stack(labels).astype(np.int32)
