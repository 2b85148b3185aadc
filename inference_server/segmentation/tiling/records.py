"""Instances as bytes of a file: a header, then the lengths of the mask's runs."""

from __future__ import annotations

import struct

import numpy as np

from inference_server.masks import Mask
from inference_server.segmentation.types import Instance

_HEADER = struct.Struct("<qd?4dqB")
"""Prompt, score, whether there is a box, the box, number of runs, bytes per length."""


def pack(instance: Instance) -> bytes:
    """Write an instance, without its logits.

    Args:
        instance: object to store; its mask may be empty.
    """
    lengths = np.diff(instance.mask.runs.reshape(-1), prepend=0)
    wide = lengths.size > 0 and int(lengths.max()) >= 1 << 32
    dtype = np.dtype("<u8" if wide else "<u4")
    box = instance.box or (0.0, 0.0, 0.0, 0.0)
    header = _HEADER.pack(
        instance.prompt,
        instance.score,
        instance.box is not None,
        *box,
        len(instance.mask.runs),
        dtype.itemsize,
    )
    return header + lengths.astype(dtype).tobytes()


def unpack(data: bytes, size: tuple[int, int]) -> Instance:
    """Read an instance.

    Args:
        data: what `pack` wrote.
        size: (height, width) of the mask's image in pixels.
    """
    prompt, score, boxed, x0, y0, x1, y1, runs, itemsize = _HEADER.unpack_from(data)
    lengths = np.frombuffer(data, f"<u{itemsize}", 2 * runs, _HEADER.size)
    flips = lengths.astype(np.int64).cumsum()
    box = (x0, y0, x1, y1) if boxed else None
    return Instance(prompt, score, Mask(flips.reshape(-1, 2), size), box=box)
