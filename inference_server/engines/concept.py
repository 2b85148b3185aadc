"""PCS, promptable concept segmentation: words and exemplars find every instance. SAM 3."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor
from transformers import Sam3Model, Sam3Processor
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from inference_server.engines.base import Candidates, ConceptPrompt, Embedding, RGBImage
from inference_server.engines.device import Compute

_TEXT_TOKENS = 32
"""Length that SAM 3's processor pads every text to."""

_BOX_PADDING = -10
"""Label of a box that is not there, as in SAM 3's processor."""

_EXEMPLARS_ONLY = "visual"
"""The text of a prompt that has boxes only, as in SAM 3's processor."""


@dataclass(frozen=True)
class _Vision:
    """An encoded image: its feature levels, finest first, and the position codes of each.

    The codes depend on the model's size alone, so all images that an engine encodes share them.
    """

    levels: list[Tensor]
    positions: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Text:
    """Embedded words: features `[1, 32, C]`, and which of the 32 tokens count `[1, 32]`."""

    features: Tensor
    mask: Tensor


class ConceptEngine:
    """SAM 3 behind the engine protocol, vision and text embeddings kept apart.

    Args:
        model: with its weights, on the device, in evaluation mode.
        processor: its processor.
        checkpoint: name of the weights.
        compute: device and dtype.
        chunk: most prompts in one forward.
        text_cache: how many texts to keep embedded.
    """

    def __init__(
        self,
        model: Sam3Model,
        processor: Sam3Processor,
        checkpoint: str,
        compute: Compute,
        *,
        chunk: int = 16,
        text_cache: int = 1024,
    ) -> None:
        self.checkpoint = checkpoint
        self._model = model
        self._processor = processor
        self._compute = compute
        self._chunk = chunk
        self._texts: LRUCache[str, _Text] = LRUCache(max(1, text_cache))
        self._positions: tuple[Tensor, ...] = ()
        self._lock = threading.Lock()
        if compute.dtype != torch.float32:
            _keep_in_float32(model.geometry_encoder, compute)

    @torch.inference_mode()
    def encode(self, images: Sequence[RGBImage]) -> list[Embedding]:
        """Encode images.

        Args:
            images: `uint8[H, W, 3]` RGB, sizes may differ.

        Returns:
            One embedding an image. The position codes, which are the same for every image, and the
            coarsest level, which nothing reads, are not part of it.
        """
        pixels = self._processor.image_processor(
            # Said, because an image of three rows would be taken for three channels.
            images=list(images),
            input_data_format="channels_last",
            return_tensors="pt",
        )
        batch = pixels["pixel_values"].to(self._compute.device)
        with self._compute.autocast():
            output = self._model.get_vision_features(pixel_values=batch)
        levels = output.fpn_hidden_states[:-1]
        if not self._positions:
            self._positions = tuple(p[:1].clone() for p in output.fpn_position_encoding[:-1])
        embeddings = []
        for i, image in enumerate(images):
            vision = _Vision([level[i : i + 1].clone() for level in levels], self._positions)
            nbytes = sum(level.nbytes for level in vision.levels)
            embeddings.append(Embedding((image.shape[0], image.shape[1]), vision, nbytes))
        return embeddings

    @torch.inference_mode()
    def decode(
        self, embedding: Embedding, prompts: Sequence[ConceptPrompt], *, multimask: bool = True
    ) -> list[Candidates]:
        """Answer prompts on one image, many in one forward.

        Prompts with exemplar boxes and prompts without go through separate forwards, because SAM 3
        adds a token of its own to every prompt of a forward that has boxes in it.

        Args:
            embedding: of this engine.
            prompts: what to find.
            multimask: SAM 3 has one mask an instance; ignored.

        Returns:
            Candidates over each prompt's threshold, best first, in the prompts' order.
        """
        del multimask
        answers: dict[int, Candidates] = {}
        plain = [i for i, prompt in enumerate(prompts) if not len(prompt.boxes)]
        boxed = [i for i, prompt in enumerate(prompts) if len(prompt.boxes)]
        for indices in (plain, boxed):
            for start in range(0, len(indices), self._chunk):
                part = indices[start : start + self._chunk]
                found = self._forward(embedding, [prompts[i] for i in part])
                answers.update(zip(part, found, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _forward(self, embedding: Embedding, prompts: list[ConceptPrompt]) -> list[Candidates]:
        count = len(prompts)
        texts = [self._text(prompt.text or _EXEMPLARS_ONLY) for prompt in prompts]
        features = torch.cat([text.features for text in texts])
        mask = torch.cat([text.mask for text in texts])
        vision: _Vision = embedding.features
        levels = [level.expand(count, -1, -1, -1) for level in vision.levels]
        positions = [level.expand(count, -1, -1, -1) for level in vision.positions]
        boxes, labels = self._boxes(embedding.size, prompts)
        with self._compute.autocast():
            output = self._model(
                # The model drops the last level, which the embedding leaves out: any will do.
                vision_embeds=Sam3VisionEncoderOutput(
                    fpn_hidden_states=(*levels, levels[-1]),
                    fpn_position_encoding=(*positions, positions[-1]),
                ),
                text_embeds=_Pooled(features),
                attention_mask=mask,
                input_boxes=boxes,
                input_boxes_labels=labels,
            )
        presence = output.presence_logits.float().sigmoid()
        scores = output.pred_logits.float().sigmoid() * presence
        answers = []
        for i, prompt in enumerate(prompts):
            kept = torch.nonzero(scores[i] > prompt.threshold)[:, 0]
            kept = kept[scores[i][kept].argsort(descending=True, stable=True)]
            planes = output.pred_masks[i][kept].float().sigmoid().cpu().numpy()
            answers.append(Candidates(planes, 0.5, scores[i][kept].cpu().numpy()))
        return answers

    def _text(self, text: str) -> _Text:
        with self._lock:
            known = self._texts.get(text)
        if known is not None:
            return known
        words = self._processor.tokenizer(
            text,
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=_TEXT_TOKENS,
        ).to(self._compute.device)
        with self._compute.autocast():
            features = self._model.get_text_features(
                input_ids=words["input_ids"], attention_mask=words["attention_mask"]
            ).pooler_output
        embedded = _Text(features, words["attention_mask"])
        with self._lock:
            self._texts[text] = embedded
        return embedded

    def _boxes(
        self, size: tuple[int, int], prompts: list[ConceptPrompt]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Boxes `[N, K, 4]` as shares (centre x, centre y, width, height), labels `[N, K]`."""
        most = max(len(prompt.boxes) for prompt in prompts)
        if not most:
            return None, None
        height, width = size
        boxes = np.zeros((len(prompts), most, 4), np.float32)
        labels = np.full((len(prompts), most), _BOX_PADDING, np.int64)
        for row, prompt in enumerate(prompts):
            low, high = prompt.boxes[:, :2], prompt.boxes[:, 2:]
            found = np.concatenate([(low + high) / 2, high - low], axis=1)
            boxes[row, : len(found)] = found / (width, height, width, height)
            labels[row, : len(found)] = prompt.labels
        device = self._compute.device
        return torch.from_numpy(boxes).to(device), torch.from_numpy(labels).to(device)


@dataclass(frozen=True)
class _Pooled:
    """The shape in which `Sam3Model.forward` takes text embeddings."""

    pooler_output: Tensor


def _keep_in_float32(module: torch.nn.Module, compute: Compute) -> None:
    """Run a module outside of autocast: `roi_align` has no bfloat16 on a CPU."""
    forward = module.forward

    def wide(**inputs: Any) -> Any:
        with torch.autocast(compute.device.type, enabled=False):
            return forward(**{name: _to_float32(value) for name, value in inputs.items()})

    module.forward = wide


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    if isinstance(value, list | tuple):
        return type(value)(_to_float32(item) for item in value)
    return value
