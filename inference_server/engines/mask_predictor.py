"""Points, boxes and mask inputs to masks: what SAM 2 and SAM 3's visual head have in common."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.engines.base import Candidates, Embedding, Query, VisualPrompt
from inference_server.engines.device import Compute
from inference_server.engines.mask_decoder import DecoderImage, FastMaskDecoder

_LOGIT_LIMIT = 32.0
"""Mask inputs for later prompts are clamped to plus and minus this, as SAM 2 does."""


class MaskPredictor:
    """Decodes prompts on encoded images; the same arithmetic as `SAM2ImagePredictor`.

    Args:
        prompt_encoder: SAM 2's `PromptEncoder` with the model's weights.
        decoder: The model's mask decoder.
        side: Side of the model's square input in pixels.
        compute: Device and dtypes.
    """

    def __init__(
        self, prompt_encoder: Any, decoder: FastMaskDecoder, side: int, compute: Compute
    ) -> None:
        self._prompt_encoder = prompt_encoder
        self._decoder = decoder
        self._side = side
        self._compute = compute

    @torch.inference_mode()
    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts; prompts of the same kind share a forward pass, also on different images.

        Prompts with different numbers of points do not share one. Padding would allow it, but the
        decoder attends to padding points, so a result would depend on the other prompts.

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
        sparse, dense = self._prompt_encoder(points=points, boxes=None, masks=masks)
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
            scale = np.array([1 / width, 1 / height], np.float32) * self._side
            prompt = query.prompt
            corners = np.empty((0, 2), np.float32)
            if prompt.box is not None:
                corners = prompt.box.reshape(2, 2)
            coordinates.append(np.concatenate([corners, prompt.points]) * scale)
            labels.append(np.concatenate([[2, 3][: len(corners)], prompt.labels]))
        return np.stack(coordinates).astype(np.float32), np.stack(labels).astype(np.int32)
