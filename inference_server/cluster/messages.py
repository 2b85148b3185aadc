"""What crosses the wire between an ingress and a replica of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from inference_server.segmentation.types import EncodedImage, Instance

Family = Literal["sam2", "sam3"]

Method = Literal["concept", "visual", "automatic", "embed"]
"""Methods of `SegmentationService` that an engine answers."""


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image as an ingress names it to a replica.

    Attributes:
        image_id: the client's name for it.
        url: to fetch it from, where it is not known by its id.
        digest: SHA-256 of the file, where the ingress has it.
        data: the file, or a reference to it in Ray's object store; None where the replica is
            thought to know it.
    """

    image_id: str | None = None
    url: str | None = None
    digest: str | None = None
    data: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a replica answers, where it is no error.

    Attributes:
        image: without the features of its embedding, which stay where they are.
        instances: what was found.
        seconds: spent in each stage; see `Timings`.
    """

    image: EncodedImage
    instances: list[Instance]
    seconds: dict[str, float]

    @classmethod
    def of(
        cls,
        image: EncodedImage,
        instances: Sequence[Instance],
        seconds: dict[str, float],
        *,
        logits: bool = False,
    ) -> Reply:
        """What is to be sent.

        Args:
            image: that was asked about.
            instances: what was found.
            seconds: by stage.
            logits: send the instances' logits as well: 256 kB each.
        """
        embedding = replace(image.embedding, features=None)
        if not logits:
            instances = [replace(instance, logits=None) for instance in instances]
        return cls(replace(image, embedding=embedding), list(instances), seconds)
