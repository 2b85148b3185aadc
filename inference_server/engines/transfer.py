"""Copies between the host and the device that wait for the device as rarely as possible.

A GPU works through its queue while the host goes on. The host waits for all queued work when it
reads a result, and also when it copies to the device, unless the copy is marked as non-blocking.
Each wait costs the time that the queue takes, including the work of other threads. On a CPU
nothing is copied.
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
        values: An array, or a tensor on the CPU. It may be changed or freed afterwards: CUDA reads
            pageable memory before the call returns.
        device: Device of the result.

    Returns:
        A tensor on the device; on a CPU, one that shares the memory of `values`.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    return tensor.to(device, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Copy tensors from the device, and wait for it once.

    Args:
        tensors: Tensors of one dtype on one device, in any shapes.

    Returns:
        One array per tensor, in order. They share memory: copy what is kept for long.
    """
    if len(tensors) < 2 or tensors[0].device.type == "cpu":
        return [tensor.cpu().numpy() for tensor in tensors]
    together = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    parts = torch.split(together, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).numpy() for part, tensor in zip(parts, tensors, strict=True)]
