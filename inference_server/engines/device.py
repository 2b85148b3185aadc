"""Which device and arithmetic the models use."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from inference_server.errors import ModelUnavailableError


@dataclass(frozen=True)
class Compute:
    """A device, the dtype to compute in, and the one to keep embeddings in.

    Attributes:
        device: where tensors live.
        dtype: `torch.float32` or `torch.bfloat16`.
        cache_dtype: of embeddings between encoding and decoding.
    """

    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which matrix work runs in `dtype`; weights stay in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


@cache
def _cpu_has_fast_bfloat16() -> bool:
    """Only the AMX units make bfloat16 faster than float32 on a CPU; AVX-512 alone does not."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and " amx_bf16" in cpuinfo.read_text()


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _cpu_has_fast_bfloat16()


def choose_compute(device: str, dtype: str, cache_dtype: str = "auto") -> Compute:
    """Resolve the settings `device`, `dtype` and `embedding_dtype`.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `auto`, `float32` or `bfloat16`.
        cache_dtype: `auto`, `float32`, `bfloat16` or `float16`; `auto` is that of the arithmetic.

    Returns:
        What to compute on.

    Raises:
        ModelUnavailableError: no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        elif torch.backends.mps.is_available():
            device = "mps"
        else:
            device = "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelUnavailableError(
            f"INFERENCE_DEVICE={device}: this device cannot be used here ({error}). "
            "Set it to auto or cpu."
        ) from error
    if dtype == "auto":
        dtype = "bfloat16" if _has_fast_bfloat16(chosen) else "float32"
    if cache_dtype == "auto":
        cache_dtype = dtype
    return Compute(chosen, getattr(torch, dtype), getattr(torch, cache_dtype))
