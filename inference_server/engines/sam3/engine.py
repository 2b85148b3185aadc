"""PCS, promptable concept segmentation: words and exemplars find every instance. SAM 3."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor
from transformers import Sam3Model, Sam3Processor

from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Prepared,
    Query,
)
from inference_server.engines.device import Compute
from inference_server.engines.features import SquareInput
from inference_server.engines.resize import Normalizer
from inference_server.engines.sam3.decoder import ConceptImage, FastConceptDecoder

_TEXT_TOKENS = 32
"""Length that SAM 3's processor cuts every text to."""

_BOX_PADDING = -10
"""Label of a box that is not there, as in SAM 3's processor."""

_EXEMPLARS_ONLY = "visual"
"""The text of a prompt that has boxes only, as in SAM 3's processor."""

_BEYOND = 1.0
"""How far exemplar boxes may reach beyond the image, in its widths and heights."""


class ConceptEngine(SquareInput):
    """SAM 3 behind the engine protocol, vision and text embeddings kept apart.

    Args:
        model: with its weights, on the device, in evaluation mode.
        processor: its processor.
        checkpoint: name of the weights.
        compute: device and dtypes.
        text_cache: how many texts to keep embedded.
    """

    def __init__(
        self,
        model: Sam3Model,
        processor: Sam3Processor,
        checkpoint: str,
        compute: Compute,
        *,
        text_cache: int = 1024,
    ) -> None:
        self.checkpoint = checkpoint
        self._model = model
        self._processor = processor
        self._compute = compute
        self._decoder = FastConceptDecoder(model, compute.dtype)
        image_processor = processor.image_processor
        self._normalize = Normalizer(
            image_processor.image_mean, image_processor.image_std, compute.device
        )
        self._side = int(image_processor.size["height"])
        self._texts: LRUCache[str, Future[Tensor]] = LRUCache(max(1, text_cache))
        self._lock = threading.Lock()

    @property
    def side(self) -> int:
        """Side of the square in pixels that images are resized to."""
        return self._side

    @torch.inference_mode()
    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """Encode images.

        Args:
            images: from `prepare`.

        Returns:
            One embedding an image, with what the decoder can do before it knows a prompt. The
            position codes, which are the same for every image, and the coarsest level, which
            nothing reads, are not part of it.
        """
        batch = self._normalize([image.pixels for image in images])
        with self._compute.autocast():
            output = self._model.get_vision_features(pixel_values=batch)
        prepared = self._decoder.prepare(output.fpn_hidden_states[:-1])
        return prepared.to(self._compute.cache_dtype).embeddings(images)

    @torch.inference_mode()
    def decode(self, queries: Sequence[Query[ConceptPrompt]]) -> list[Candidates]:
        """Answer prompts, on one image or on several, in one forward.

        The device is waited for twice: for the scores, which decide what masks to make, and for
        the masks.

        Args:
            queries: what to find. SAM 3 has one mask an instance, so that `multimask` and `best`
                say nothing.

        Returns:
            Candidates over each prompt's threshold, best first, in the queries' order.
        """
        if not queries:
            return []
        images: list[ConceptImage] = [query.embedding.features for query in queries]
        tokens = self._tokens(queries, images)
        found = self._decoder.find(images, *_padded(tokens))
        # Of one transfer, as it is waited for.
        told = torch.cat([found.scores[..., None], found.boxes], dim=-1).cpu().numpy()
        scores, boxes = told[..., 0], told[..., 1:]
        kept = [
            _best(row, query.prompt.threshold) for row, query in zip(scores, queries, strict=True)
        ]
        planes = [
            self._decoder.masks(
                image, found, i, torch.from_numpy(own).to(self._compute.device), tokens[i][None]
            ).sigmoid_()
            if len(own)
            else torch.empty(0, *image.plane_size)
            for i, (image, own) in enumerate(zip(images, kept, strict=True))
        ]
        # Copied only now that all of them are under way.
        return [
            Candidates(
                planes[i].cpu().numpy(),
                0.5,
                scores[i, own],
                boxes=boxes[i, own] * _corner_scale(query.embedding.size),
            )
            for i, (query, own) in enumerate(zip(queries, kept, strict=True))
        ]

    def _tokens(
        self, queries: Sequence[Query[ConceptPrompt]], images: list[ConceptImage]
    ) -> list[Tensor]:
        """Embedded words and exemplars of every prompt, `float32[T, C]`."""
        tokens = [self._text(query.prompt.text or _EXEMPLARS_ONLY) for query in queries]
        # Apart from the others, because the encoder of exemplars brings a token of its own.
        boxed = [i for i, query in enumerate(queries) if len(query.prompt.boxes)]
        if boxed:
            boxes, labels = self._boxes([queries[i] for i in boxed])
            exemplars = self._decoder.exemplars([images[i] for i in boxed], boxes, labels)
            for i, own in zip(boxed, exemplars, strict=True):
                count = len(queries[i].prompt.boxes) + 1
                tokens[i] = torch.cat([tokens[i], own[:count]])
        return tokens

    def _text(self, text: str) -> Tensor:
        """Embedded words, `float32[T, C]`; known ones, and ones just being embedded, only once."""
        with self._lock:
            answer = self._texts.get(text)
            mine = answer is None
            if answer is None:
                answer = self._texts[text] = Future()
        if mine:
            try:
                answer.set_result(self._embed(text))
            except BaseException as error:
                with self._lock:
                    self._texts.pop(text, None)
                answer.set_exception(error)
                raise
        return answer.result()

    def _embed(self, text: str) -> Tensor:
        # Without the padding that the processor adds: it comes last, and the text encoder looks
        # backwards only, so that the words' own tokens do not notice. 4 tokens, not 32.
        words = self._processor.tokenizer(
            text, return_tensors="pt", truncation=True, max_length=_TEXT_TOKENS
        ).to(self._compute.device)
        with self._compute.autocast():
            features: Tensor = self._model.get_text_features(
                input_ids=words["input_ids"], attention_mask=words["attention_mask"]
            ).pooler_output
        return features[0].float()

    def _boxes(self, queries: list[Query[ConceptPrompt]]) -> tuple[Tensor, Tensor]:
        """Boxes `[N, K, 4]` as shares (centre x, centre y, width, height), labels `[N, K]`."""
        most = max(len(query.prompt.boxes) for query in queries)
        boxes = np.zeros((len(queries), most, 4), np.float32)
        labels = np.full((len(queries), most), _BOX_PADDING, np.int64)
        for row, query in enumerate(queries):
            prompt = query.prompt
            shares = prompt.boxes / _corner_scale(query.embedding.size)
            # The model looks at as many places as a box is large: no part far outside is needed.
            low, high = np.split(shares.clip(-_BEYOND, 1 + _BEYOND), 2, axis=1)
            boxes[row, : len(shares)] = np.concatenate([(low + high) / 2, high - low], axis=1)
            labels[row, : len(shares)] = prompt.labels
        device = self._compute.device
        return torch.from_numpy(boxes).to(device), torch.from_numpy(labels).to(device)


def _corner_scale(size: tuple[int, int]) -> NDArray[np.float32]:
    """What turns shares of an image of (height, width) into pixels, for x0, y0, x1, y1."""
    height, width = size
    return np.array([width, height, width, height], np.float32)


def _best(scores: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Which scores are over a threshold, the highest first; of equal ones in their order."""
    over = np.flatnonzero(scores > threshold)
    return over[np.argsort(-scores[over], kind="stable")]


def _padded(tokens: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """`[B, T, C]` and, if they are not all as many, which of them are tokens, `bool[B, T]`."""
    counts = [len(own) for own in tokens]
    if len(set(counts)) == 1:
        return torch.stack(tokens), None
    together = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    places = torch.arange(max(counts))
    mask = places < torch.tensor(counts)[:, None]
    return together, mask.to(together.device)
