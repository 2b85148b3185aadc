"""The SAM 3 engine: promptable concept segmentation (PCS), every instance of a concept."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor
from transformers import Sam3LiteTextModel, Sam3Model, Sam3Processor

from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Prepared,
    Query,
)
from inference_server.engines.cuda_graphs import Graphs
from inference_server.engines.device import Compute
from inference_server.engines.device_masks import DeviceMasks
from inference_server.engines.features import SquareInput, bytes_of
from inference_server.engines.linear import cast_weights, round_rows
from inference_server.engines.sam3.decoder import ConceptImage, FastConceptDecoder
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.engines.transfer import to_device, to_host

_TEXT_TOKENS = 32
"""Maximum tokens of a text, as in SAM 3's processor; longer texts are truncated."""

_BOX_PADDING = -10
"""Label of a padding box, as in SAM 3's processor."""

_EXEMPLARS_ONLY = "visual"
"""Text of a prompt with boxes only, as in SAM 3's processor."""

_BEYOND = 1.0
"""Exemplar boxes are clipped to the image plus a margin of this many widths and heights."""


class ConceptEngine(SquareInput):
    """An `Engine` of SAM 3. Image and text embeddings are cached separately.

    Args:
        model: The model with its weights, on the device, in evaluation mode: a SAM 3, or a SAM 3
            LiteText, which differs in its text encoder.
        processor: The model's processor, for its tokenizer and its image size, mean and deviation.
        checkpoint: Name of the weights, for display.
        compute: Device and dtypes.
        text_cache: Maximum number of cached text embeddings, at least 1; default 1024.
        trunk: The image encoder on the same model. Default: its own, which copies the weights.
        owned: Whether the model is this engine's own, which may convert its weights to the dtype
            that they are used in. The default leaves them as they are.
    """

    def __init__(
        self,
        model: Sam3Model | Sam3LiteTextModel,
        processor: Sam3Processor,
        checkpoint: str,
        compute: Compute,
        *,
        text_cache: int = 1024,
        trunk: TrunkEngine | None = None,
        owned: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self._model = model
        self._processor = processor
        self._compute = compute
        if owned and compute.dtype != torch.float32:
            _cast_weights(model, compute.dtype)
        graphs = Graphs(compute.device, compute.graphs)
        self._decoder = FastConceptDecoder(model, compute.dtype, graphs=graphs)
        self._trunk = trunk or TrunkEngine(model, processor, checkpoint, compute)
        encoder = self._trunk.encoder
        self.weight_bytes = bytes_of(model) + (0 if encoder is None else encoder.nbytes)
        vision: Any = model.vision_encoder
        self._levels: list[Any] = list(vision.neck.fpn_layers)[:-1]
        # SAM 3 LiteText mixes neighbouring tokens, also with the padding.
        self._is_causal = isinstance(model, Sam3Model)
        self._texts: LRUCache[tuple[str, str], Future[Tensor]] = LRUCache(max(1, text_cache))
        self._lock = threading.Lock()
        self._masks = DeviceMasks(compute)

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
        return self._trunk.side

    @torch.inference_mode()
    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """Encode a batch of images.

        Args:
            images: Images from `prepare`, or images whose `pixels` are a `TrunkImage`.

        Returns:
            One embedding per image, in order, including what the decoder computes independently of
            the prompt. Position encodings, which are the same for every image, and the coarsest
            level, which is unused, are not included.
        """
        planes = self._trunk.planes(images)
        with self._compute.autocast():
            levels = [layer(planes) for layer in self._levels]
        prepared = self._decoder.prepare(levels)
        return prepared.to(self._compute.cache_dtype).embeddings(images)

    @torch.inference_mode()
    def decode(self, queries: Sequence[Query[ConceptPrompt]]) -> list[Candidates]:
        """Decode prompts on one or several images in one forward pass.

        It waits for the device twice: for the scores, which decide which masks to compute, and
        for the masks.

        Args:
            queries: Prompts, each with its image. SAM 3 predicts one mask per instance, so
                `multimask` and `best` have no effect.

        Returns:
            One result per query, in order: the candidates above the prompt's threshold, best first.
        """
        if not queries:
            return []
        images: list[ConceptImage] = [query.embedding.features for query in queries]
        tokens, exemplars = self._tokens(queries, images)
        detections = self._decoder.detect(images, *_pad(tokens))
        scores, boxes = to_host([detections.scores, detections.boxes])
        kept = [
            _ranked_above(row, query.prompt.threshold)
            for row, query in zip(scores, queries, strict=True)
        ]
        planes = [
            self._decoder.masks(
                image,
                detections,
                i,
                to_device(own, self._compute.device),
                tokens[i][None],
            )
            for i, (image, own) in enumerate(zip(images, kept, strict=True))
            if len(own)
        ]
        # Copied only after the masks of all prompts have been launched.
        sizes = [query.embedding.size for query in queries]
        parts = list(zip(planes, [sizes[i] for i, own in enumerate(kept) if len(own)], strict=True))
        if all(query.masks for query in queries) and self._masks.wins(parts):
            launched = self._masks.launch(parts)
            runs = iter(launched.read(to_host(launched.tensors)))
            return [
                Candidates(
                    np.empty((len(own), 0, 0), np.float32),
                    0.0,
                    scores[i, own],
                    boxes=boxes[i, own] * _corner_scale(sizes[i]),
                    runs=[next(runs) for _ in own],
                    exemplars=exemplars.get(i),
                )
                for i, own in enumerate(kept)
            ]
        found = iter(to_host(planes))
        return [
            # Logits, as Meta's code enlarges them; `transformers` enlarges probabilities.
            Candidates(
                next(found) if len(own) else np.empty((0, *images[i].plane_size), np.float32),
                0.0,
                scores[i, own],
                boxes=boxes[i, own] * _corner_scale(sizes[i]),
                exemplars=exemplars.get(i),
            )
            for i, own in enumerate(kept)
        ]

    def _tokens(
        self, queries: Sequence[Query[ConceptPrompt]], images: list[ConceptImage]
    ) -> tuple[list[Tensor], dict[int, NDArray[np.float32]]]:
        """Embed the words and exemplars of each prompt.

        Returns:
            `float32[T, C]` per prompt, and the exemplars by the numbers of the prompts that ask for
            them.
        """
        tokens = [
            self._text(query.tenant, query.prompt.text or _EXEMPLARS_ONLY) for query in queries
        ]
        # Only prompts with boxes, because the geometry encoder adds a token of its own.
        boxed = [i for i, query in enumerate(queries) if len(query.prompt.boxes)]
        parts: dict[int, Tensor] = {}
        if boxed:
            boxes, labels = self._boxes([queries[i] for i in boxed])
            exemplars = self._decoder.exemplars([images[i] for i in boxed], boxes, labels)
            for i, own in zip(boxed, exemplars, strict=True):
                parts[i] = own[: len(queries[i].prompt.boxes) + 1]
                tokens[i] = torch.cat([tokens[i], parts[i]])
        for i, query in enumerate(queries):
            if query.prompt.exemplars is not None:
                others = torch.from_numpy(query.prompt.exemplars)
                tokens[i] = torch.cat([tokens[i], to_device(others, self._compute.device)])
        asked = [i for i in boxed if queries[i].prompt.keep_exemplars]
        return tokens, dict(zip(asked, to_host([parts[i] for i in asked]), strict=True))

    def _text(self, tenant: str, text: str) -> Tensor:
        """Embed a text, `float32[T, C]`: cached, single-flight per tenant and text."""
        key = tenant, text
        with self._lock:
            future = self._texts.get(key)
            leader = future is None
            if future is None:
                future = self._texts[key] = Future()
        if leader:
            try:
                future.set_result(self._embed(text))
            except BaseException as error:
                with self._lock:
                    self._texts.pop(key, None)
                future.set_exception(error)
                raise
        return future.result()

    def _embed(self, text: str) -> Tensor:
        # Without the processor's padding, which comes last, if the text encoder is causal: padding
        # does not change the other tokens then. "red circle" is 4 tokens instead of 32.
        words = self._processor.tokenizer(
            text,
            return_tensors="pt",
            truncation=True,
            padding=False if self._is_causal else "max_length",
            max_length=_TEXT_TOKENS,
        )
        ids, mask = words["input_ids"], words["attention_mask"]
        device = self._compute.device
        with self._compute.autocast():
            features: Tensor = self._model.get_text_features(
                input_ids=to_device(ids, device), attention_mask=self._text_mask(mask)
            ).pooler_output
        return features[0, : int(mask.sum())].float()

    def _text_mask(self, mask: Tensor) -> Tensor | None:
        """The text encoder's mask for `int64[1, T]`, 1 for tokens and 0 for padding.

        The model would ask the device whether anything is padding, so there is no mask if nothing
        is, and otherwise one of four dimensions, which is used as it is.
        """
        if mask.all():
            return None
        texts: Any = self._model.text_encoder
        if texts.config._attn_implementation == "sdpa":
            mask = mask.bool()[:, None, None]
        return to_device(mask, self._compute.device)

    def _boxes(self, queries: list[Query[ConceptPrompt]]) -> tuple[Tensor, Tensor]:
        """Boxes and labels of prompts, padded to the same number.

        Returns:
            Boxes `[N, K, 4]` as centre x, centre y, width, height in fractions of the image's
            sides, and labels `[N, K]`.
        """
        most = max(len(query.prompt.boxes) for query in queries)
        boxes = np.zeros((len(queries), most, 4), np.float32)
        labels = np.full((len(queries), most), _BOX_PADDING, np.int64)
        for row, query in enumerate(queries):
            prompt = query.prompt
            fractions = prompt.boxes / _corner_scale(query.embedding.size)
            # Clipped, because the cost of `roi_align` grows with a box's size.
            low, high = np.split(fractions.clip(-_BEYOND, 1 + _BEYOND), 2, axis=1)
            boxes[row, : len(fractions)] = np.concatenate([(low + high) / 2, high - low], axis=1)
            labels[row, : len(fractions)] = prompt.labels
        device = self._compute.device
        return to_device(boxes, device), to_device(labels, device)


def _cast_weights(model: Any, dtype: torch.dtype) -> None:
    """Convert the weights that are used in a dtype only; those of the image encoder are copied."""
    layers = [part for each in model.detr_encoder.layers for part in (each.self_attn, each.mlp)]
    for each in model.detr_decoder.layers:
        attention = each.vision_cross_attn
        layers += [attention.q_proj, attention.k_proj, attention.v_proj]
    neck = model.vision_encoder.neck
    cast_weights(dtype, model.text_encoder, model.text_projection, neck, *layers)
    for name, part in model.text_encoder.named_modules():
        if name.endswith("token_embedding"):
            round_rows(part)


def _corner_scale(size: tuple[int, int]) -> NDArray[np.float32]:
    """Factors from fractions of an image of (height, width) to pixels, for x0, y0, x1, y1."""
    height, width = size
    return np.array([width, height, width, height], np.float32)


def _ranked_above(scores: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Indices of the scores above a threshold, by descending score; stable for equal scores."""
    above = np.flatnonzero(scores > threshold)
    return above[np.argsort(-scores[above], kind="stable")]


def _pad(tokens: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Pad tokens `[T, C]` to one batch.

    Returns:
        `[B, T, C]`, and `bool[B, T]`, the tokens that are not padding; None if none is.
    """
    counts = [len(own) for own in tokens]
    if len(set(counts)) == 1:
        return torch.stack(tokens), None
    together = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    places = torch.arange(max(counts))
    mask = places < torch.tensor(counts)[:, None]
    return together, to_device(mask, together.device)
