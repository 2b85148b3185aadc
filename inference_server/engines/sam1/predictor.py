"""Points, boxes and mask inputs to masks, with the arithmetic of SAM 1."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference_server.engines.base import Candidates, Query, VisualPrompt
from inference_server.engines.mask_predictor import MaskPredictor
from inference_server.engines.sam1.fit import fitted_size, without_padding
from inference_server.engines.transfer import to_device


class FittedMaskPredictor(MaskPredictor):
    """Decodes prompts on images that are fitted into the model's input; as `SamModel`.

    It differs from `MaskPredictor` in three ways. Coordinates and masks relate to the part of the
    input that the image covers. A prompt with a box has no padding point, which SAM 2 adds to every
    prompt. The predicted IoU, which SAM 1 does not bound, is clipped to 0 to 1.
    """

    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts; see `MaskPredictor.decode`."""
        return [replace(found, scores=found.scores.clip(0, 1)) for found in super().decode(queries)]

    def _kind(self, prompt: VisualPrompt) -> Hashable:
        return len(prompt.points), prompt.box is None

    def _tokens(
        self, queries: list[Query[VisualPrompt]]
    ) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        points, labels, boxes = [], [], []
        for query in queries:
            scale = self._scale(query.embedding.size)
            points.append(query.prompt.points * scale)
            labels.append(query.prompt.labels)
            if query.prompt.box is not None:
                boxes.append((query.prompt.box.reshape(2, 2) * scale).astype(np.float32))
        corners = to_device(np.stack(boxes), self._compute.device) if boxes else None
        return self._points(points, labels), corners

    def _scale(self, size: tuple[int, int]) -> NDArray[np.float32]:
        fitted = np.array(fitted_size(size, self._side)[::-1], np.float64)
        return (fitted / size[::-1]).astype(np.float32)

    def _planes(
        self, logits: Tensor, counts: list[int], sizes: list[tuple[int, int]]
    ) -> list[Tensor]:
        if len(set(sizes)) == 1:
            return [without_padding(logits, sizes[0])]
        parts = torch.split(logits, counts)
        return [without_padding(part, size) for part, size in zip(parts, sizes, strict=True)]
