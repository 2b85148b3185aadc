"""Points, boxes and mask inputs to masks: what all SAM models have in common."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference_server.engines.base import Candidates, Embedding, Query, VisualPrompt
from inference_server.engines.cuda_graphs import Graphs, bucket
from inference_server.engines.device import Compute
from inference_server.engines.device_masks import DeviceMasks, LaunchedRuns, Part
from inference_server.engines.mask_decoder import DecoderImage, FastMaskDecoder
from inference_server.engines.transfer import to_device, to_host

_GRAPHED, _GRAPHED_IMAGES = 32, 8
"""Maximum prompts of a CUDA graph on one image, and on several, which it keeps a copy of. A GPU
computes larger batches for longer than the host takes to launch them."""

_LOGIT_LIMIT = 32.0
"""Mask inputs for later prompts are clamped to plus and minus this, as SAM 2 does."""


class MaskPredictor:
    """Decodes prompts on encoded images; the same arithmetic as `SAM2ImagePredictor`.

    A subclass may place images and embed boxes in another way.

    With CUDA graphs, batches are padded to a power of two by repeating a prompt, so that few shapes
    occur. Each prompt's result depends on its own row only.

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
        self._masks = DeviceMasks(compute)
        self._graphs = Graphs(compute.device, compute.graphs)

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
        if all(query.masks for query in queries):
            parts = [part for each in forwarded for part in each.parts]
            if self._masks.wins(parts):
                forwarded = [each.with_runs(self._masks.launch(each.parts)) for each in forwarded]
        # Copied only after all groups have been launched, because a copy waits for the device.
        arrays = iter(to_host([tensor for each in forwarded for tensor in each.tensors]))
        results: dict[int, Candidates] = {}
        for indices, each in zip(groups.values(), forwarded, strict=True):
            answers = each.candidates([next(arrays) for _ in each.tensors])
            results.update(zip(indices, answers, strict=True))
        return [results[index] for index in range(len(queries))]

    def _forward(self, queries: list[Query[VisualPrompt]]) -> _Forwarded:
        """Decode prompts of the same kind in one forward pass."""
        first = queries[0]
        shared = all(each.embedding.features is first.embedding.features for each in queries)
        thresholds = self._thresholds(queries)
        size = None
        if self._graphs.enabled and thresholds is None:
            size = bucket(len(queries), _GRAPHED if shared else _GRAPHED_IMAGES)
        padded = [*queries, *queries[-1:] * (0 if size is None else size - len(queries))]
        inputs = self._inputs(padded)
        if size is None:
            logits, quality, counts = self._decoded(inputs, first, thresholds)
        else:
            logits, quality = self._graphs(
                # The size, because prompts without points, box and mask are in no tensor.
                (inputs.form, size, first.multimask, first.multimask and first.best),
                lambda tensors: self._decoded(inputs.of(tensors), first, None)[:2],
                inputs.tensors,
            )
            each = len(quality) // size
            counts = [each] * len(queries)
            logits, quality = logits[: sum(counts)], quality[: sum(counts)]
        planes = self._planes(logits, counts, [query.embedding.size for query in queries])
        return _Forwarded(queries, counts, quality, planes, logits)

    def _inputs(self, queries: list[Query[VisualPrompt]]) -> _Inputs:
        """What the forward pass reads, on the device."""
        given = [q.prompt.mask_input for q in queries if q.prompt.mask_input is not None]
        masks = to_device(np.stack(given)[:, None], self._compute.device) if given else None
        points, boxes = self._tokens(queries)
        image = self._images([query.embedding for query in queries])
        return _Inputs(len(queries), image, points, boxes, masks)

    def _decoded(
        self, inputs: _Inputs, query: Query[VisualPrompt], thresholds: Tensor | None
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Run the forward pass; see `FastMaskDecoder` for the result."""
        masks = inputs.masks
        sparse, dense = self._prompt_encoder(points=inputs.points, boxes=inputs.boxes, masks=masks)
        return self._decoder(
            inputs.image,
            sparse.expand(inputs.count, -1, -1),
            None if masks is None else dense,
            multimask=query.multimask,
            best=query.best,
            min_iou=thresholds,
        )

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
class _Inputs:
    """What a forward pass reads.

    Attributes:
        count: Number of prompts, N.
        image: A batch of one image, or of N.
        points: Coordinates `[N, K, 2]` and labels `[N, K]`, or None.
        boxes: Corners `[N, 2, 2]`, or None.
        masks: Mask inputs `[N, 1, h, w]`, or None.
    """

    count: int
    image: DecoderImage
    points: tuple[Tensor, Tensor] | None
    boxes: Tensor | None
    masks: Tensor | None

    @property
    def form(self) -> tuple[bool, ...]:
        """Which of the inputs there are."""
        return self.points is not None, self.boxes is not None, self.masks is not None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the attributes."""
        rest = (*(self.points or ()), self.boxes, self.masks)
        return [*self.image.tensors, *(each for each in rest if each is not None)]

    def of(self, tensors: Sequence[Tensor]) -> _Inputs:
        """Inputs of the same form with other tensors."""
        images = len(self.image.tensors)
        rest = iter(tensors[images:])
        return _Inputs(
            self.count,
            DecoderImage.of(tensors[:images]),
            None if self.points is None else (next(rest), next(rest)),
            None if self.boxes is None else next(rest),
            None if self.masks is None else next(rest),
        )


@dataclass(frozen=True, slots=True)
class _Forwarded:
    """The result of a forward pass, on the device.

    Attributes:
        queries: Prompts, each with its image.
        counts: Number of masks of each query.
        quality: `float32[M]`, predicted IoU of all masks.
        planes: `float32[*, h, w]`, planes of all queries, or one tensor per query.
        logits: `float32[M, s, s]`, planes that cover the model's whole input, as mask inputs do.
        runs: The masks that the device makes from the planes; None (the default) if it does not.
    """

    queries: list[Query[VisualPrompt]]
    counts: list[int]
    quality: Tensor
    planes: list[Tensor]
    logits: Tensor
    runs: LaunchedRuns | None = None

    @property
    def parts(self) -> list[Part]:
        """The planes of each query with the size of its image."""
        sizes = [query.embedding.size for query in self.queries]
        if len(set(sizes)) == 1:
            return [(planes, sizes[0]) for planes in self.planes]
        planes = self.planes
        if len(planes) == 1:
            planes = list(torch.split(planes[0], self.counts))
        return list(zip(planes, sizes, strict=True))

    def with_runs(self, runs: LaunchedRuns) -> _Forwarded:
        """The same with masks that the device makes."""
        return replace(self, runs=runs)

    @property
    def tensors(self) -> list[Tensor]:
        """What is read on the host; the logits are last, if they are not the planes."""
        read = self.planes if self.runs is None else self.runs.tensors
        tensors = [self.quality, *read]
        if self._has_logits and read[0] is not self.logits:
            tensors.append(self.logits)
        return tensors

    @property
    def _has_logits(self) -> bool:
        return any(query.logits for query in self.queries)

    def candidates(self, arrays: list[NDArray[Any]]) -> list[Candidates]:
        """One result per query.

        Args:
            arrays: `tensors`, on the host.
        """
        ends = np.cumsum(self.counts)[:-1]
        quality, *rest = arrays
        whole = np.split(rest[-1], ends) if self._has_logits else [None] * len(self.queries)
        runs: list[list[NDArray[np.int64]]] | list[None] = [None] * len(self.queries)
        if self.runs is None:
            planes = rest[: len(self.planes)]
            if len(planes) == 1:
                planes = np.split(planes[0], ends)
        else:
            every = self.runs.read(rest[: len(self.runs.tensors)])
            starts = np.cumsum([0, *self.counts]).tolist()
            runs = [every[start:end] for start, end in pairwise(starts)]
            planes = [np.empty((count, 0, 0), np.float32) for count in self.counts]
        return [
            Candidates(
                plane,
                0.0,
                score.copy(),
                inputs.clip(-_LOGIT_LIMIT, _LOGIT_LIMIT)
                if query.logits and inputs is not None
                else None,
                runs=own,
            )
            for query, plane, inputs, score, own in zip(
                self.queries, planes, whole, np.split(quality, ends), runs, strict=True
            )
        ]
