"""What the engines do alike: images at a model's size, and features that a cache can keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from inference_server.engines.base import Embedding, Prepared, RGBImage
from inference_server.engines.resize import resize


class Features(ABC):
    """Tensors of `B` images, each with the images as its first dimension."""

    __slots__ = ()

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in an order of the class's own."""

    @classmethod
    @abstractmethod
    def of(cls, tensors: Sequence[Tensor]) -> Self:
        """From tensors in that order."""

    @property
    def nbytes(self) -> int:
        """Memory that they keep."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def pick(self, index: int) -> Self:
        """One image of a batch, as a batch of its own; a copy."""
        return self.of([tensor[index : index + 1].clone() for tensor in self.tensors])

    def to(self, target: torch.device | torch.dtype) -> Self:
        """The same on another device or in another dtype."""
        return self.of([tensor.to(target) for tensor in self.tensors])

    def embeddings(self, images: Sequence[Prepared]) -> list[Embedding]:
        """One embedding an image of the batch."""
        embeddings = []
        for index, image in enumerate(images):
            # Copies: a view would keep the whole batch alive for one of its images.
            own = self if len(images) == 1 else self.pick(index)
            embeddings.append(Embedding(image.size, own, own.nbytes))
        return embeddings


class SquareInput(ABC):
    """The first half of an engine: images become squares of `side` pixels."""

    @property
    @abstractmethod
    def side(self) -> int:
        """Side of the square in pixels that images are resized to."""

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        """Resize an image; see `Engine.prepare`."""
        height, width = pixels.shape[:2]
        return Prepared(resize(pixels, self.side, extent), size or (height, width))
