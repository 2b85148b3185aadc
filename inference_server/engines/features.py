"""Base classes of both engines: square model inputs, and features that a cache can hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from inference_server.engines.base import Embedding, Prepared, RGBImage
from inference_server.engines.resize import resize


class Features(ABC):
    """Tensors of `B` encoded images; the first dimension of each tensor is the image."""

    __slots__ = ()

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in an order that the subclass defines."""

    @classmethod
    @abstractmethod
    def of(cls, tensors: Sequence[Tensor]) -> Self:
        """Create features from tensors in the order of `tensors`."""

    @property
    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def pick(self, index: int) -> Self:
        """Copy one image to a batch of one."""
        return self.of([tensor[index : index + 1].clone() for tensor in self.tensors])

    def to(self, target: torch.device | torch.dtype) -> Self:
        """These features on another device or in another dtype."""
        return self.of([tensor.to(target) for tensor in self.tensors])

    def embeddings(self, images: Sequence[Prepared]) -> list[Embedding]:
        """One embedding per image of the batch."""
        embeddings = []
        for index, image in enumerate(images):
            # A copy, because a view of one image would keep the whole batch in memory.
            own = self if len(images) == 1 else self.pick(index)
            embeddings.append(Embedding(image.size, own, own.nbytes))
        return embeddings


def bytes_of(*modules: nn.Module) -> int:
    """Memory of the parameters and buffers of modules in bytes; each tensor counts once.

    Args:
        modules: The modules; they may share tensors.
    """
    tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


class SquareInput(ABC):
    """The `prepare` step of an engine: resizes images to squares of `side` pixels."""

    @property
    @abstractmethod
    def side(self) -> int:
        """Side of the model's square input in pixels."""

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        """Resize an image; see `Engine.prepare`."""
        height, width = pixels.shape[:2]
        return Prepared(resize(pixels, self.side, extent), size or (height, width))
