"""Copies between the host and the device that wait for the device as rarely as possible.

A GPU works through its queue while the host goes on. The host waits for all queued work when it
reads a result, and also when it copies to the device, unless the copy is marked as non-blocking and
starts from pinned memory: CUDA copies other memory to pinned memory of its own first, and may wait
for the queue to have it free. Each wait costs the time that the queue takes, including the work of
other threads. On a CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it.

    Args:
        values: An array, or a tensor on the CPU. It may be changed or freed afterwards: what the
            device reads later is a copy in pinned memory, which PyTorch keeps until it was read.
        device: Device of the result.

    Returns:
        A tensor on the device; on a CPU, one that shares the memory of `values`.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Copy tensors from the device, and wait for it once.

    Args:
        tensors: Tensors on one device, float32 or int32, in any shapes.

    Returns:
        One array per tensor, in order. They share memory: copy what is kept for long.
    """
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    flat = [tensor.flatten() for tensor in tensors]
    if len({tensor.dtype for tensor in tensors}) > 1:
        flat = [tensor.view(torch.int32) for tensor in flat]
    together = _read(flat[0] if len(flat) == 1 else torch.cat(flat))
    parts = torch.split(together, [tensor.numel() for tensor in tensors])
    return [
        part.view(tensor.dtype).view(tensor.shape).numpy()
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def _read(tensor: Tensor) -> Tensor:
    """Copy a tensor from the device and wait for it."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    # Into pinned memory the device writes directly. PyTorch reuses it when the arrays are gone.
    found = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return found.copy_(tensor)
