"""PVS, promptable visual segmentation: points and boxes select one object a prompt. SAM 2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sam2.modeling.sam2_base import SAM2Base
from sam2.utils.transforms import SAM2Transforms
from torch import Tensor

from inference_server.engines.base import Candidates, Embedding, RGBImage, VisualPrompt
from inference_server.engines.device import Compute

_LOGIT_LIMIT = 32.0
"""SAM 2 clamps the logits that it hands out as mask inputs to plus and minus this."""


class VisualEngine:
    """SAM 2 behind the engine protocol; the same arithmetic as `SAM2ImagePredictor`.

    Args:
        model: with its weights, on the device, in evaluation mode.
        checkpoint: name of the weights.
        compute: device and dtype.
        chunk: most prompts in one forward.
    """

    def __init__(
        self, model: SAM2Base, checkpoint: str, compute: Compute, *, chunk: int = 16
    ) -> None:
        self.checkpoint = checkpoint
        self._model = model
        self._compute = compute
        self._chunk = chunk
        self._transforms: Any = SAM2Transforms(  # type: ignore[no-untyped-call]
            resolution=model.image_size, mask_threshold=0.0
        )

    @torch.inference_mode()
    def encode(self, images: Sequence[RGBImage]) -> list[Embedding]:
        """Encode images.

        Args:
            images: `uint8[H, W, 3]` RGB, sizes may differ.

        Returns:
            One embedding an image.
        """
        batch = self._transforms.forward_batch(list(images)).to(self._compute.device)
        with self._compute.autocast():
            output = self._model.forward_image(batch)
            _, levels, _, sizes = self._model._prepare_backbone_features(output)  # type: ignore[no-untyped-call]
        if self._model.directly_add_no_mem_embed:
            levels[-1] = levels[-1] + self._model.no_mem_embed
        # [HW, B, C] -> [B, C, H, W], finest level first.
        planes = [
            level.permute(1, 2, 0).unflatten(2, size)
            for level, size in zip(levels, sizes, strict=True)
        ]
        # Copies: a view would keep the whole batch alive for one of its images.
        layout = torch.contiguous_format
        return [
            self._embedding(
                image.shape[:2], [plane[i : i + 1].clone(memory_format=layout) for plane in planes]
            )
            for i, image in enumerate(images)
        ]

    @staticmethod
    def _embedding(size: tuple[int, ...], features: list[Tensor]) -> Embedding:
        nbytes = sum(feature.nbytes for feature in features)
        return Embedding((size[0], size[1]), features, nbytes)

    @torch.inference_mode()
    def decode(
        self, embedding: Embedding, prompts: Sequence[VisualPrompt], *, multimask: bool = True
    ) -> list[Candidates]:
        """Answer prompts on one image.

        Prompts with the same number of points share a forward. Padding would let more of them
        share one, but SAM 2 attends to padding points, so an answer would depend on its neighbours.

        Args:
            embedding: of this engine.
            prompts: what to segment; one without points and box is SAM 2's empty prompt.
            multimask: three candidates a prompt, otherwise one.

        Returns:
            Candidates of every prompt, in order.
        """
        groups: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            tokens = len(prompt.points) + (0 if prompt.box is None else 2)
            groups[tokens, prompt.mask_input is not None].append(index)
        answers: dict[int, Candidates] = {}
        for indices in groups.values():
            for start in range(0, len(indices), self._chunk):
                part = indices[start : start + self._chunk]
                found = self._forward(embedding, [prompts[i] for i in part], multimask)
                answers.update(zip(part, found, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _forward(
        self, embedding: Embedding, prompts: list[VisualPrompt], multimask: bool
    ) -> list[Candidates]:
        """One forward over prompts that have equally many points."""
        device = self._compute.device
        coordinates, labels = self._tokens(embedding.size, prompts)
        points = None
        if coordinates.shape[1]:
            points = (
                torch.from_numpy(coordinates).to(device),
                torch.from_numpy(labels).to(device),
            )
        masks = None
        if prompts[0].mask_input is not None:
            stack = np.stack([p.mask_input for p in prompts if p.mask_input is not None])
            masks = torch.from_numpy(stack)[:, None].to(device)
        *fine, coarse = embedding.features
        model = self._model
        with self._compute.autocast():
            sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=masks)
            if points is None and masks is None and len(prompts) > 1:
                sparse = sparse.expand(len(prompts), -1, -1)
                dense = dense.expand(len(prompts), -1, -1, -1)
            logits, quality, _, _ = model.sam_mask_decoder(
                image_embeddings=coarse,
                image_pe=model.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
                repeat_image=len(prompts) > 1,
                high_res_features=fine,
            )
        planes = logits.float().cpu().numpy()
        scores = quality.float().cpu().numpy()
        return [
            Candidates(plane, 0.0, score, plane.clip(-_LOGIT_LIMIT, _LOGIT_LIMIT))
            for plane, score in zip(planes, scores, strict=True)
        ]

    def _tokens(
        self, size: tuple[int, int], prompts: list[VisualPrompt]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Coordinates `[N, K, 2]` in model pixels and labels `[N, K]`; a box is two points."""
        height, width = size
        scale = np.array([1 / width, 1 / height], np.float32) * self._model.image_size
        coordinates, labels = [], []
        for prompt in prompts:
            corners = np.empty((0, 2), np.float32)
            if prompt.box is not None:
                corners = prompt.box.reshape(2, 2)
            coordinates.append(np.concatenate([corners, prompt.points]) * scale)
            labels.append(np.concatenate([[2, 3][: len(corners)], prompt.labels]))
        return np.stack(coordinates).astype(np.float32), np.stack(labels).astype(np.int32)
