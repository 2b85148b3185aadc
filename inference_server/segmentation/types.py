"""The types of a segmentation request and of its result.

Every API builds these from its own fields, `SegmentationService` takes and returns them, and they
travel between the processes of a cluster. Prompts are defined beside the engines that answer them
and are exported here as well, so that callers need one import.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.base import ConceptPrompt, Embedding, VisualPrompt
from inference_server.engines.catalog import Family, ModelKey
from inference_server.masks import Mask

__all__ = [
    "AutomaticOptions",
    "CachedEmbedding",
    "Checkpoint",
    "ConceptOptions",
    "ConceptPrompt",
    "EmbeddingTarget",
    "EncodedImage",
    "ImageKey",
    "ImageRef",
    "Instance",
    "SegmentationResult",
    "StoredImage",
    "TilingOptions",
    "VisualOptions",
    "VisualPrompt",
]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class StoredImage:
    """An encoded image file and its digest.

    Attributes:
        data: the file's bytes (JPEG, PNG, TIFF, ...).
        digest: SHA-256 of `data` in hexadecimal.
    """

    data: bytes = field(repr=False)
    digest: str

    @classmethod
    def of(cls, data: bytes) -> StoredImage:
        """Hash a file. Call it in a worker thread, because hashing takes CPU time.

        Args:
            data: the file's bytes.
        """
        return cls(data, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image as a request names it; at least one attribute is set.

    Attributes:
        url: address to fetch the file from.
        base64: the file's bytes, base64-encoded.
        file: the file's bytes with their digest.
        image_id: the client's name for the image.
        digest: SHA-256 of the file in hexadecimal, sent in place of the bytes by a caller that
            expects the image to be cached.
        pinned: use the file, or the bytes with the digest, whatever image the id names; the id only
            helps to find its embedding. It is not given to the file.
        window: the file is a window of a raster, whose embedding may take only a share of the
            cache; see `ImageKey.window`.
    """

    url: str | None = None
    base64: str | None = None
    file: StoredImage | None = None
    image_id: str | None = None
    digest: str | None = None
    pinned: bool = False
    window: bool = False


@dataclass(frozen=True, slots=True)
class ImageKey:
    """Key of an image in the caches.

    Attributes:
        tenant: owner of the image; no other tenant can address it.
        checkpoint: cache label of the model that encoded it, such as `sam2/hiera_large`.
        image: `id:` and the client's `image_id`, or `sha256:` and the digest of the file.
        window: whether it is a window of a raster. All windows together take at most a share of
            the embedding cache, so that a large raster does not displace everybody else's images.
    """

    tenant: str
    checkpoint: str
    image: str
    window: bool = False


@dataclass(frozen=True, slots=True)
class CachedEmbedding:
    """A value of the embedding cache.

    Attributes:
        embedding: the encoded image.
        digest: SHA-256 in hexadecimal of the file that it was made from.
    """

    embedding: Embedding
    digest: str


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image that is ready for prompts, and where its embedding came from.

    Attributes:
        key: the image's key in the embedding cache.
        embedding: the encoded image.
        model: label of the checkpoint; those of several are joined by commas.
        hit: whether the embedding came from the cache.
        digest: SHA-256 of the file in hexadecimal.
        mismatch: whether the request sent bytes that differ from those cached under its id.
        answered_by: the models that requests select, of which these are the weights.
    """

    key: ImageKey
    embedding: Embedding
    model: str
    hit: bool
    digest: str
    mismatch: bool = False
    answered_by: tuple[ModelKey, ...] = ()

    @classmethod
    def joined(cls, images: Sequence[EncodedImage]) -> EncodedImage:
        """Combine the results of several models for one image.

        Args:
            images: at least one; the result has the embedding of the last.
        """
        return replace(
            images[-1],
            model=", ".join(dict.fromkeys(image.model for image in images)),
            hit=all(image.hit for image in images),
            mismatch=any(image.mismatch for image in images),
            answered_by=tuple(dict.fromkeys(key for image in images for key in image.answered_by)),
        )


@dataclass(frozen=True, slots=True)
class EmbeddingTarget:
    """What an image is encoded for ahead of time.

    Attributes:
        prompts: the kind of prompts: `concept` (words, exemplars) or `visual` (points, boxes).
        model: the model that answers them; None for the one that answers requests which name none.
    """

    prompts: Literal["concept", "visual"]
    model: ModelKey | None = None


@dataclass(frozen=True, slots=True)
class ConceptOptions:
    """Options of a concept request (PCS).

    Attributes:
        nms_iou_threshold: remove an instance whose mask overlaps that of a more confident one, of
            any prompt, by more than this IoU (0 to 1); None keeps all.
        within: refuse prompts that lie outside the image.
    """

    nms_iou_threshold: float | None = None
    within: bool = False


@dataclass(frozen=True, slots=True)
class VisualOptions:
    """Options of a visual request (PVS).

    Attributes:
        multimask: predict three candidate masks per prompt instead of one.
        best: keep only the candidate with the highest predicted IoU.
        save_logits: cache the low-resolution logits for later prompts on this image.
        load_logits: start from the best cached logits that a prompt refines.
        logits: return the low-resolution logits with each instance.
        within: refuse prompts that lie outside the image.
    """

    multimask: bool = False
    best: bool = True
    save_logits: bool = False
    load_logits: bool = False
    logits: bool = False
    within: bool = False


@dataclass(frozen=True, slots=True)
class AutomaticOptions:
    """Options of automatic mask generation, named as in `SAM2AutomaticMaskGenerator`.

    Attributes:
        points_per_side: points along each side of the prompt grid.
        pred_iou_threshold: keep masks with a predicted IoU above this (0 to 1); 0 keeps all.
        stability_threshold: keep masks at least this stable (0 to 1, see `is_stable`); 0 keeps all.
        stability_offset: distance in logits from the mask threshold to the two levels that the
            stability score compares.
        box_nms_threshold: remove a mask whose box overlaps that of a mask with a higher predicted
            IoU by more than this IoU.
        mask_nms_threshold: of the remaining masks, remove those that overlap a better one by more
            than this mask IoU. `SAM2AutomaticMaskGenerator` has no such step; 1 disables it.
    """

    points_per_side: int = 32
    pred_iou_threshold: float = 0.8
    stability_threshold: float = 0.95
    stability_offset: float = 1.0
    box_nms_threshold: float = 0.7
    mask_nms_threshold: float = 0.7


@dataclass(frozen=True, slots=True)
class TilingOptions:
    """How a raster is cut into windows, each of which is segmented as an image of its own.

    Attributes:
        tile_size: side of a window in pixels of the raster; None for the side of the model's input,
            at which a window is shown to the model pixel by pixel.
        overlap: pixels that a window shares with the next one, less than half of `tile_size`; None
            for an eighth of `tile_size`.
    """

    tile_size: int | None = None
    overlap: int | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One segmented object.

    Attributes:
        prompt: index of the prompt that found it.
        score: confidence (PCS) or predicted IoU (PVS), 0 to 1.
        mask: the mask at the image's full size.
        logits: `float32[h, w]` low-resolution logits, if the engine returns them.
        box: (x0, y0, x1, y1) in pixels of the image, if the engine predicts boxes.
    """

    prompt: int
    score: float
    mask: Mask
    logits: NDArray[np.float32] | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class SegmentationResult:
    """The result of a segmentation request.

    Attributes:
        image: the image that was segmented.
        instances: in prompt order, best first within a prompt; automatic masks best first.
        exemplars: of each concept prompt, the exemplars as the model sees them; None for a prompt
            that does not ask for them. Empty if no prompt does.
    """

    image: EncodedImage
    instances: list[Instance]
    exemplars: tuple[NDArray[np.float32] | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A set of weights that requests can use, and the device it runs on.

    Attributes:
        family: `sam2` or `sam3`.
        name: a SAM 2 version such as `hiera_large`, `SAM3_NAME`, or a name from the settings.
        source: name of the weights for people: `demo`, a file's name, or a Hugging Face id.
        device: device of the computation, such as `cpu` or `cuda:0`.
        dtype: dtype of the computation.
        loaded: whether the weights are in memory.
        cache_dtype: dtype in which embeddings are cached.
        threads: CPU threads of a forward pass.
        encode_batch: maximum images per forward pass.
        decode_batch: maximum prompts per forward pass.
        nbytes: memory of the weights in bytes; 0 if they are not loaded or do not tell.
        last_used: Unix time of the last use; None if they are not loaded.
        side: side of the model's square input in pixels; None if they are not loaded.
    """

    family: Family
    name: str
    source: str
    device: str
    dtype: str
    loaded: bool
    cache_dtype: str
    threads: int
    encode_batch: int
    decode_batch: int
    nbytes: int = 0
    last_used: float | None = None
    side: int | None = None

    @property
    def key(self) -> ModelKey:
        """The model that requests select."""
        return ModelKey(self.family, self.name)

    @property
    def label(self) -> str:
        """Value of the response header `x-model`."""
        return f"{self.family}/{self.source}"
