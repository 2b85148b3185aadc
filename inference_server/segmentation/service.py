"""The interface that every API calls: images and prompts in, masks out.

`local.LocalSegmentationService` runs the models in this process,
`cluster.service.ClusterSegmentationService` in the replicas of a cluster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric

from inference_server.engines.catalog import Catalog, ModelKey
from inference_server.executor import Threads
from inference_server.observability.metrics import Timings
from inference_server.segmentation.image_loader import ImageLoader
from inference_server.segmentation.types import (
    AutomaticOptions,
    Checkpoint,
    ConceptOptions,
    ConceptPrompt,
    EmbeddingTarget,
    EncodedImage,
    ImageRef,
    SegmentationResult,
    StoredImage,
    VisualOptions,
    VisualPrompt,
)

T = TypeVar("T")


class SegmentationService(ABC):
    """Segments images, each for the tenant that owns it.

    Args:
        threads: worker threads for masks, images and responses.
        image_loader: loads image files.
        catalog: the configured models.

    Attributes:
        image_loader: loads image files.
        catalog: the configured models, and which of them answers a request.
    """

    def __init__(self, threads: Threads, image_loader: ImageLoader, catalog: Catalog) -> None:
        self._threads = threads
        self.image_loader = image_loader
        self.catalog = catalog

    @abstractmethod
    async def concept(
        self,
        tenant: str,
        image: ImageRef,
        prompts: Sequence[ConceptPrompt],
        options: ConceptOptions,
        *,
        timings: Timings,
        model: ModelKey | None = None,
    ) -> SegmentationResult:
        """Find every instance of each concept (PCS).

        Args:
            tenant: owner of the image.
            image: image to segment.
            prompts: concepts to find; boxes in pixels of the image.
            options: NMS and validation, see `ConceptOptions`.
            timings: receives the duration of each step.
            model: a SAM 3. Default: the one of `INFERENCE_SAM3_WEIGHTS`.

        Returns:
            The instances in prompt order, best first within a prompt.

        Raises:
            RequestError: a prompt lies outside the image and `options.within` is set.
            InferenceServerError: the image cannot be loaded, or the model cannot be used now.
        """

    @abstractmethod
    async def visual(
        self,
        tenant: str,
        image: ImageRef,
        prompts: Sequence[VisualPrompt],
        options: VisualOptions,
        *,
        timings: Timings,
        model: ModelKey | None = None,
    ) -> SegmentationResult:
        """Segment one object per prompt (PVS).

        Args:
            tenant: owner of the image.
            image: image to segment.
            prompts: objects to segment; points and boxes in pixels of the image.
            options: candidates, logits and validation, see `VisualOptions`.
            timings: receives the duration of each step.
            model: a SAM 2, or a SAM 3 with a visual head. Default: see `Catalog.visual`.

        Returns:
            One instance per prompt in their order; three per prompt with `multimask` and without
            `best`.

        Raises:
            RequestError: a prompt lies outside the image and `options.within` is set.
            InferenceServerError: the image cannot be loaded, or the model cannot be used now.
        """

    @abstractmethod
    async def automatic(
        self,
        tenant: str,
        image: ImageRef,
        options: AutomaticOptions,
        *,
        timings: Timings,
        model: ModelKey | None = None,
    ) -> SegmentationResult:
        """Segment every object of an image.

        Args:
            tenant: owner of the image.
            image: image to segment.
            options: prompt grid and filters.
            timings: receives the duration of each step. Most masks are made while later prompts
                are decoded, and count as decoding.
            model: see `visual`.

        Returns:
            The instances by descending predicted IoU; `prompt` is the index of a grid point.

        Raises:
            InferenceServerError: the image cannot be loaded, or the model cannot be used now.
        """

    @abstractmethod
    async def embed(
        self,
        tenant: str,
        image: ImageRef,
        targets: Sequence[EmbeddingTarget],
        timings: Timings,
        *,
        overwrite: bool = False,
    ) -> EncodedImage:
        """Encode an image ahead of time. Without an id, its digest becomes its id.

        Args:
            tenant: owner of the image.
            image: image to encode.
            targets: prompts and models to encode it for.
            timings: receives the duration of each step.
            overwrite: let the id name the image that is sent, even if it names another one. If the
                image cannot be encoded, the id keeps what it names. Default: False.

        Returns:
            The encoded image, summed up over the targets, with the embedding of the last one.

        Raises:
            InferenceServerError: the image cannot be loaded, or a model cannot be used now.
        """

    @abstractmethod
    async def forget_image(self, tenant: str, image_id: str, keep: str | None = None) -> bool:
        """Remove an image from all caches: its file, embeddings and saved clicks.

        Args:
            tenant: owner of the image.
            image_id: its id: the client's, or the digest that names an image without one.
            keep: digest of a file that the id keeps. Default: none.

        Returns:
            Whether anything was removed.
        """

    @abstractmethod
    async def read(self, tenant: str, image: ImageRef, timings: Timings) -> StoredImage:
        """Load an image's file, for callers that need more than its embedding.

        Pass it on as `ImageRef(file=...)`, so that it is not fetched again.

        Args:
            tenant: owner of the image.
            image: image to load.
            timings: receives the duration of each step.

        Returns:
            The file and its digest.

        Raises:
            ImageError: the image cannot be fetched.
            ImageTooLargeError: the image exceeds a limit.
            UnknownImageError: only an id was given, and it is not cached.
        """

    async def on_pixels(
        self, image: StoredImage, work: Callable[[NDArray[np.uint8]], T], timings: Timings
    ) -> T:
        """Decode an image at full size and process its pixels in a worker thread.

        Args:
            image: image to decode.
            work: takes the pixels, `uint8[H, W, 3]`, RGB.
            timings: receives the duration of decoding.

        Returns:
            The result of `work`.

        Raises:
            ImageError: the image cannot be decoded.
            ImageTooLargeError: the image has too many pixels.
        """
        return await self.image_loader.on_pixels(image, work, timings)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread, so that the event loop stays responsive.

        Args:
            work: the work to run.

        Returns:
            The result of `work`.
        """
        return await self._threads.run(work)

    async def in_slow_thread(self, work: Callable[[], T]) -> T:
        """Run CPU work that may take seconds, where it keeps no other requests waiting.

        Args:
            work: calls `stop_if_cancelled` between its steps.
        """
        return await self._threads.run_slow(work)

    @abstractmethod
    async def start(self) -> None:
        """Initialise without loading models."""

    @abstractmethod
    async def load(self) -> None:
        """Load the configured models, so that the first requests do not wait for them.

        Raises:
            ModelUnavailableError: some cannot be loaded; the others are loaded.
        """

    @abstractmethod
    def has_loaded(self) -> bool:
        """Whether all configured models are in memory."""

    @abstractmethod
    async def checkpoints(self) -> list[Checkpoint]:
        """List the checkpoints that requests can use."""

    @abstractmethod
    async def load_model(self, key: ModelKey) -> None:
        """Load a model, so that the first request does not wait for it.

        The load goes on if the caller is cancelled; a second call waits for the same load.

        Args:
            key: the model.

        Raises:
            ModelUnavailableError: it is unknown, or its weights cannot be loaded.
            CapacityError: there is no room for it beside the models in use.
        """

    @abstractmethod
    async def unload_model(self, key: ModelKey) -> None:
        """Free the memory of a model's weights; the next request loads them again.

        Requests in flight are still answered, and its embeddings stay cached.

        Args:
            key: the model.

        Raises:
            ModelUnavailableError: it is unknown.
        """

    @abstractmethod
    async def clear(self) -> None:
        """Unload all models and empty all caches; requests in flight are still answered."""

    @abstractmethod
    async def evict_half(self) -> None:
        """Evict half of the cached embeddings, after memory ran out."""

    @abstractmethod
    def readings(self) -> Iterable[Metric]:
        """Collect the metrics whose values are read at scrape time."""

    def close(self) -> None:
        """Stop the worker threads."""
        self._threads.close()
