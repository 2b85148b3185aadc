"""Masks of the image's size as runs, made on the device from low-resolution logits.

The plain way of `masks/upsample.py`, which is for CPUs, is to find crossings column by column. A
GPU has the memory traffic to interpolate whole planes, and copying runs to the host takes a small
part of the time that copying logits takes. The masks are those of PyTorch's bilinear
interpolation, to which `masks/upsample.py` is equal within its documented tolerance.

The number of runs is known only after they were found. To wait for the device no more than
otherwise, room for a usual number is copied; an unusual number takes another pass and another wait.

Never measured on a GPU: tests compare the results on CPU tensors, and run it on fake ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from numpy.typing import NDArray
from torch import Tensor

from inference_server.engines.device import Compute
from inference_server.engines.transfer import to_host

Part = tuple[Tensor, tuple[int, int]]
"""Logits `float32[N, h, w]` and the (height, width) of their image in pixels."""

CHUNK_PIXELS = 1 << 25
"""Default maximum pixels that are interpolated at a time: 128 MB, and half of it for edges."""

_LARGEST_IMAGE = 1 << 27
"""Maximum pixels of an image; masks of larger ones are made on the CPU."""

_LARGEST_LOGIT = float(np.finfo(np.float32).max) / 8
"""Logits are clamped to this, as `masks/upsample.py` does."""


class DeviceMasks:
    """Makes masks on the device where that wins.

    Args:
        compute: The device, and the number of masks from which it makes them.
        chunk_pixels: Maximum pixels that are interpolated at a time, but at least one mask.
    """

    def __init__(self, compute: Compute, *, chunk_pixels: int = CHUNK_PIXELS) -> None:
        self._least = compute.masks_from
        self._chunk_pixels = chunk_pixels

    def wins(self, parts: Sequence[Part]) -> bool:
        """Whether masks are made on the device.

        Args:
            parts: Logits of all masks.
        """
        if not self._least or sum(len(planes) for planes, _ in parts) < self._least:
            return False
        return all(height * width <= _LARGEST_IMAGE for _, (height, width) in parts)

    def launch(self, parts: Sequence[Part]) -> LaunchedRuns:
        """Start making masks, without waiting for them.

        Args:
            parts: Logits of all masks.
        """
        chunks = []
        for planes, size in _merged(parts):
            step = max(1, self._chunk_pixels // (size[0] * size[1]))
            chunks += [_Chunk.of(some, size) for some in torch.split(planes, step) if len(some)]
        return LaunchedRuns(chunks)


class LaunchedRuns:
    """Masks that the device is making.

    Args:
        chunks: Parts of the masks, in order.
    """

    def __init__(self, chunks: list[_Chunk]) -> None:
        self._chunks = chunks

    @property
    def tensors(self) -> list[Tensor]:
        """What `read` needs, on the device; of dtype int32."""
        return [tensor for chunk in self._chunks for tensor in (chunk.counts, chunk.found)]

    def read(self, arrays: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int64]]:
        """The runs of each mask, see `Mask.runs`.

        Args:
            arrays: `tensors`, on the host.
        """
        runs: list[NDArray[np.int64]] = []
        for chunk, counts, found in zip(self._chunks, arrays[::2], arrays[1::2], strict=True):
            total = int(counts.sum())
            if total > len(found):
                (found,) = to_host([chunk.positions(total)])
            ends = counts.astype(np.int64).cumsum()
            own = np.repeat(np.arange(len(counts)) * chunk.pixels, counts)
            flips = found[:total].astype(np.int64) - own
            runs += [part.reshape(-1, 2) for part in np.split(flips, ends[:-1])]
        return runs


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Masks that are made together.

    Attributes:
        planes: `float32[N, h, w]`, logits.
        size: (height, width) of the image in pixels.
        counts: `int32[N]`, number of each mask's edges: run ends, in column-major order.
        found: `int32[K]`, positions of the first K edges of all masks.
    """

    planes: Tensor
    size: tuple[int, int]
    counts: Tensor
    found: Tensor

    @classmethod
    def of(cls, planes: Tensor, size: tuple[int, int]) -> _Chunk:
        """Find edges, up to two for each column of the image and mask."""
        edges = _edges(planes, size)
        counts = edges.sum(1, dtype=torch.int32)
        return cls(planes, size, counts, _positions(edges, 2 * size[1] * len(planes)))

    @property
    def pixels(self) -> int:
        """Positions of a mask."""
        return self.size[0] * self.size[1] + 1

    def positions(self, count: int) -> Tensor:
        """Find edges once more: the positions of the first `count`, `int32[count]`."""
        return _positions(_edges(self.planes, self.size), count)


@torch.inference_mode()
def _edges(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Where masks begin and end in column-major order, `bool[N, height * width + 1]`."""
    bounded = planes.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)[None]
    inside = F.interpolate(bounded, size, mode="bilinear", align_corners=False)[0] > 0
    bordered = F.pad(inside.transpose(1, 2).flatten(1), (1, 1))
    return bordered[:, 1:] != bordered[:, :-1]


@torch.inference_mode()
def _positions(edges: Tensor, count: int) -> Tensor:
    """Positions of the first `count` edges in the flattened tensor, `int32[count]`.

    `nonzero` would wait for the device, because it has as many results as there are edges. Here
    the k-th edge is where the number of edges so far reaches k.
    """
    so_far = edges.flatten().cumsum(0, dtype=torch.int32)
    ranks = torch.arange(1, count + 1, dtype=torch.int32, device=edges.device)
    return torch.searchsorted(so_far, ranks, out_int32=True)


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Join consecutive parts of images of the same size."""
    merged: list[tuple[list[Tensor], tuple[int, int]]] = []
    for planes, size in parts:
        if merged and merged[-1][1] == size and merged[-1][0][0].shape[1:] == planes.shape[1:]:
            merged[-1][0].append(planes)
        else:
            merged.append(([planes], size))
    return [(own[0] if len(own) == 1 else torch.cat(own), size) for own, size in merged]
