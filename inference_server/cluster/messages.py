"""Messages between an ingress and a replica of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.catalog import ModelKey
from inference_server.errors import ImageError, ImageTooLargeError
from inference_server.segmentation.types import EncodedImage, Instance, StoredImage

Family = Literal["sam2", "sam3"]
"""Engine deployments: SAM 3 with its visual head, and all models that answer points and boxes
only."""


def deployed_in(key: ModelKey) -> Family:
    """The deployment that serves a model.

    Args:
        key: The model.
    """
    return "sam3" if key.family == "sam3" else "sam2"


Method = Literal["concept", "visual", "automatic", "embed"]
"""Methods of `SegmentationService` that an ingress calls on a replica."""


@dataclass(frozen=True, slots=True)
class SentImage:
    """Reference to an image, or the image itself, as an ingress sends it to a replica.

    Attributes:
        image_id: id that the client gave the image; None without an id.
        url: URL to fetch the image from if the replica does not know the id; None without a URL.
        digest: SHA-256 of the file in hex; None if the ingress does not have the file.
        data: bytes of the file; None if the replica is expected to have the image.
        pinned: whether the digest selects the image, and not the id; see `ImageRef`.
        window: whether it is a window of a raster; see `ImageRef`.
    """

    image_id: str | None = None
    url: str | None = None
    digest: str | None = None
    data: bytes | None = field(default=None, repr=False)
    pinned: bool = False
    window: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A replica's successful response.

    Attributes:
        image: the encoded image, without the features of its embedding.
        instances: objects that were found, with their masks.
        seconds: seconds spent in each stage, by the stage names of `Timings`.
        exemplars: see `SegmentationResult`.
    """

    image: EncodedImage
    instances: list[Instance]
    seconds: dict[str, float]
    exemplars: tuple[NDArray[np.float32] | None, ...] = ()

    @classmethod
    def of(
        cls,
        image: EncodedImage,
        instances: Sequence[Instance],
        seconds: dict[str, float],
        *,
        logits: bool = False,
        exemplars: tuple[NDArray[np.float32] | None, ...] = (),
    ) -> Reply:
        """Create a reply without the data that an ingress does not need.

        Args:
            image: the encoded image; the features of its embedding are removed.
            instances: objects that were found.
            seconds: seconds spent, by stage.
            logits: also send the logits of the instances, 256 kB each. Default: False.
            exemplars: see `SegmentationResult`. Default: none.

        Returns:
            The reply.
        """
        embedding = replace(image.embedding, features=None)
        if not logits:
            instances = [replace(instance, logits=None) for instance in instances]
        return cls(replace(image, embedding=embedding), list(instances), seconds, exemplars)


@dataclass(frozen=True, slots=True)
class SentFile:
    """The image file in a request.

    Attributes:
        stored: the file; None if the request has only an id, a digest, or an id and a URL.
        error: why the bytes cannot be decoded; ignored if the request has the id of a known image.
    """

    stored: StoredImage | None = None
    error: ImageError | ImageTooLargeError | None = None
