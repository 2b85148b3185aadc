"""What answers requests: images and prompts in, masks out.

`Segmenter` does it in this process, `cluster.ClusterSegmenter` with engines elsewhere. Routes know
neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric

from inference_server.automatic import AutomaticOptions
from inference_server.encoder import Encoded
from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.images.store import StoredImage
from inference_server.instances import Instance
from inference_server.metrics import Timings
from inference_server.reader import ImageReader, ImageRef
from inference_server.threads import Threads

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The answer to a request: instances in prompt order, best first within a prompt.

    Of `automatic` they come best first.
    """

    image: Encoded
    instances: list[Instance]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights that can be asked for, and what they run on.

    Attributes:
        family: `sam2` or `sam3`.
        name: a SAM 2 version such as `hiera_large`, or `SAM3_NAME`.
        source: name of the weights, for people.
        device: that they compute on.
        dtype: that they compute in.
        loaded: they are in memory.
        cache_dtype: that embeddings are kept in.
        threads: of the CPU that they use.
        encode_batch: most images in one forward.
        decode_batch: most prompts in one forward.
    """

    family: str
    name: str
    source: str
    device: str
    dtype: str
    loaded: bool
    cache_dtype: str
    threads: int
    encode_batch: int
    decode_batch: int

    @property
    def label(self) -> str:
        """What the response header `x-model` says."""
        return f"{self.family}/{self.source}"


class SegmentationService(ABC):
    """Answers requests about images, each for the tenant who owns the image.

    Args:
        threads: for masks, images and answers.
        reader: of images.
    """

    def __init__(self, threads: Threads, reader: ImageReader) -> None:
        self._threads = threads
        self.reader = reader

    @abstractmethod
    async def concept(
        self,
        tenant: str,
        image: ImageRef,
        prompts: Sequence[ConceptPrompt],
        *,
        nms_iou_threshold: float | None,
        within: bool = False,
        timings: Timings,
    ) -> Segmentation:
        """Find every instance of each concept.

        Args:
            tenant: owner of the image.
            image: the image.
            prompts: the concepts.
            nms_iou_threshold: drop an instance whose mask overlaps a more confident one, of any
                prompt, by more than this IoU; None keeps all.
            within: refuse prompts that lie outside of the image.
            timings: of the request.

        Returns:
            The instances.

        Raises:
            RequestError: a prompt lies outside, `within` given.
        """

    @abstractmethod
    async def visual(
        self,
        tenant: str,
        version: str | None,
        image: ImageRef,
        prompts: Sequence[VisualPrompt],
        *,
        multimask: bool,
        best: bool = True,
        save_logits: bool = False,
        load_logits: bool = False,
        logits: bool = False,
        within: bool = False,
        timings: Timings,
    ) -> Segmentation:
        """Segment one object a prompt.

        Args:
            tenant: owner of the image.
            version: SAM 2 size; None is the largest that there is.
            image: the image.
            prompts: the objects.
            multimask: have three candidates a prompt, otherwise one.
            best: choose the best of the three.
            save_logits: keep the answers for later prompts on this image.
            load_logits: start from the best earlier answer that a prompt refines.
            logits: hand out the instances' low-resolution logits as well.
            within: refuse prompts that lie outside of the image.
            timings: of the request.

        Returns:
            One instance a prompt, in their order; three where it is not the best alone.

        Raises:
            RequestError: a prompt lies outside, `within` given.
        """

    @abstractmethod
    async def automatic(
        self,
        tenant: str,
        version: str | None,
        image: ImageRef,
        options: AutomaticOptions,
        *,
        timings: Timings,
    ) -> Segmentation:
        """Segment everything.

        Args:
            tenant: owner of the image.
            version: SAM 2 size; None is the largest that there is.
            image: the image.
            options: what to look for.
            timings: of the request; masks are made while others are decoded, which is one step.

        Returns:
            The instances by descending predicted IoU; `prompt` is the index of a grid point.
        """

    @abstractmethod
    async def embed(
        self, tenant: str, image: ImageRef, models: Sequence[tuple[str, str]], timings: Timings
    ) -> Encoded:
        """Encode an image ahead of time; without an id, its digest becomes one.

        Args:
            tenant: owner of the image.
            image: the image.
            models: each (family, version), for which it is encoded.
            timings: of the request.

        Returns:
            What all of them made of it; the embedding is the last one's.
        """

    @abstractmethod
    async def read(self, tenant: str, image: ImageRef, timings: Timings) -> StoredImage:
        """The file of an image, for who needs more of it than its embedding.

        As `ImageRef(file=...)` it goes to the engines without being fetched again.

        Args:
            tenant: owner of the image.
            image: the image.
            timings: of the request.

        Raises:
            ImageError: it cannot be fetched.
            ImageTooLargeError: it is over a limit.
            UnknownImageError: there is only an id, and it is not cached.
        """

    async def on_pixels(
        self, image: StoredImage, work: Callable[[NDArray[np.uint8]], T], timings: Timings
    ) -> T:
        """Decode an image in full, and do something with its pixels: `ImageReader.on_pixels`."""
        return await self.reader.on_pixels(image, work, timings)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread, away from the event loop."""
        return await self._threads.run(work)

    @abstractmethod
    async def start(self) -> None:
        """Look around, before anything is loaded."""

    @abstractmethod
    async def load(self) -> None:
        """Load the configured models, so that the first requests need not wait.

        Raises:
            ModelUnavailableError: some cannot be loaded; the others are.
        """

    @abstractmethod
    def has_loaded(self) -> bool:
        """Whether all configured models are in memory."""

    @abstractmethod
    async def checkpoints(self) -> list[Checkpoint]:
        """What can be asked for."""

    @abstractmethod
    async def clear(self) -> None:
        """Unload every model and forget every image; what is under way is answered all the same."""

    @abstractmethod
    async def relieve(self) -> None:
        """Make room where memory ran out."""

    @abstractmethod
    def readings(self) -> Iterable[Metric]:
        """Metrics that are not counted as things happen, but read when somebody asks."""

    def close(self) -> None:
        """Stop the worker threads."""
        self._threads.close()
