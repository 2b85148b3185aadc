"""Points, boxes and mask inputs to masks: what all SAM models have in common."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference_server.engines.base import Candidates, Embedding, Query, VisualPrompt
from inference_server.engines.device import Compute
from inference_server.engines.mask_decoder import DecoderImage, FastMaskDecoder
from inference_server.engines.transfer import to_device, to_host

_LOGIT_LIMIT = 32.0
"""Mask inputs for later prompts are clamped to plus and minus this, as SAM 2 does."""


class MaskPredictor:
    """Decodes prompts on encoded images; the same arithmetic as `SAM2ImagePredictor`.

    A subclass may place images and embed boxes in another way.

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

        It waits for the device once, and once more per kind of prompt with a threshold, which
        decides which masks to compute.

        Args:
            queries: Prompts, each with its image. A prompt without points and box is SAM 2's empty
                prompt.

        Returns:
            One result per query, in order.
        """
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for index, query in enumerate(queries):
            refines = query.prompt.mask_input is not None
            kind = self._kind(query.prompt)
            groups[kind, refines, query.multimask, query.best].append(index)
        forwarded = [self._forward([queries[i] for i in group]) for group in groups.values()]
        # Copied only after all groups have been launched, because a copy waits for the device.
        arrays = iter(to_host([tensor for each in forwarded for tensor in each.tensors]))
        results: dict[int, Candidates] = {}
        for indices, each in zip(groups.values(), forwarded, strict=True):
            answers = each.candidates([next(arrays) for _ in each.tensors])
            results.update(zip(indices, answers, strict=True))
        return [results[index] for index in range(len(queries))]

    def _forward(self, queries: list[Query[VisualPrompt]]) -> _Forwarded:
        """Decode prompts of the same kind in one forward pass."""
        device = self._compute.device
        given = [q.prompt.mask_input for q in queries if q.prompt.mask_input is not None]
        masks = to_device(np.stack(given)[:, None], device) if given else None
        points, boxes = self._tokens(queries)
        sparse, dense = self._prompt_encoder(points=points, boxes=boxes, masks=masks)
        logits, quality, counts = self._decoder(
            self._images([query.embedding for query in queries]),
            sparse.expand(len(queries), -1, -1),
            None if masks is None else dense,
            multimask=queries[0].multimask,
            best=queries[0].best,
            min_iou=self._thresholds(queries),
        )
        planes = self._planes(logits, counts, [query.embedding.size for query in queries])
        return _Forwarded(queries, counts, quality, planes, logits)

    def _thresholds(self, queries: list[Query[VisualPrompt]]) -> torch.Tensor | None:
        """Minimum predicted IoU of each query's candidates, `float32[N]`; None to keep all."""
        thresholds = [query.prompt.threshold or -math.inf for query in queries]
        if max(thresholds) == -math.inf:
            return None
        return to_device(np.array(thresholds, np.float32), self._compute.device)

    def _images(self, embeddings: list[Embedding]) -> DecoderImage:
        """A batch of one image if all queries share it, else a batch with one image per query."""
        first: DecoderImage = embeddings[0].features
        if all(embedding.features is first for embedding in embeddings):
            return first.to(self._compute.dtype)
        return DecoderImage.stack([embedding.features for embedding in embeddings]).to(
            self._compute.dtype
        )

    def _kind(self, prompt: VisualPrompt) -> Hashable:
        """What prompts that share a forward pass have in common, besides the mask input."""
        return len(prompt.points) + (0 if prompt.box is None else 2)

    def _tokens(
        self, queries: list[Query[VisualPrompt]]
    ) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        """Convert prompts of one kind to the input of the prompt encoder; a box is two points.

        Returns:
            Coordinates `[N, K, 2]` in pixels of the model's input with labels `[N, K]`, or None if
            K is 0; and boxes, always None.
        """
        coordinates, labels = [], []
        for query in queries:
            prompt = query.prompt
            corners = np.empty((0, 2), np.float32)
            if prompt.box is not None:
                corners = prompt.box.reshape(2, 2)
            coordinates.append(
                np.concatenate([corners, prompt.points]) * self._scale(query.embedding.size)
            )
            labels.append(np.concatenate([[2, 3][: len(corners)], prompt.labels]))
        return self._points(coordinates, labels), None

    def _points(
        self, coordinates: list[NDArray[np.float32]], labels: list[NDArray[np.int64]]
    ) -> tuple[Tensor, Tensor] | None:
        """Stack the points of prompts that have the same number; None if it is 0."""
        if not len(labels[0]):
            return None
        device = self._compute.device
        return (
            to_device(np.stack(coordinates).astype(np.float32), device),
            to_device(np.stack(labels).astype(np.int32), device),
        )

    def _scale(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Pixels of the model's input per pixel of an image of (height, width), for x and y."""
        height, width = size
        return np.array([1 / width, 1 / height], np.float32) * self._side

    def _planes(
        self, logits: Tensor, counts: list[int], sizes: list[tuple[int, int]]
    ) -> list[Tensor]:
        """Planes that cover the whole image; see `Candidates.planes`.

        Args:
            logits: `float32[M, h, w]`, the masks of all queries.
            counts: Number of masks of each query.
            sizes: (height, width) of each query's image.

        Returns:
            One tensor per query, or one for all queries.
        """
        return [logits]


@dataclass(frozen=True, slots=True)
class _Forwarded:
    """The result of a forward pass, on the device.

    Attributes:
        queries: Prompts, each with its image.
        counts: Number of masks of each query.
        quality: `float32[M]`, predicted IoU of all masks.
        planes: `float32[*, h, w]`, planes of all queries, or one tensor per query.
        logits: `float32[M, s, s]`, planes that cover the model's whole input, as mask inputs do.
    """

    queries: list[Query[VisualPrompt]]
    counts: list[int]
    quality: Tensor
    planes: list[Tensor]
    logits: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """What is read on the host; the logits are last, if they are not the planes."""
        tensors = [self.quality, *self.planes]
        if self._has_logits and self.planes[0] is not self.logits:
            tensors.append(self.logits)
        return tensors

    @property
    def _has_logits(self) -> bool:
        return any(query.logits for query in self.queries)

    def candidates(self, arrays: list[NDArray[np.float32]]) -> list[Candidates]:
        """One result per query.

        Args:
            arrays: `tensors`, on the host.
        """
        ends = np.cumsum(self.counts)[:-1]
        quality, *planes = arrays
        whole = np.split(planes[-1], ends) if self._has_logits else [None] * len(self.queries)
        planes = planes[: len(self.planes)]
        if len(planes) == 1:
            planes = np.split(planes[0], ends)
        return [
            Candidates(
                plane,
                0.0,
                score.copy(),
                inputs.clip(-_LOGIT_LIMIT, _LOGIT_LIMIT)
                if query.logits and inputs is not None
                else None,
            )
            for query, plane, inputs, score in zip(
                self.queries, planes, whole, np.split(quality, ends), strict=True
            )
        ]
