"""Which device and arithmetic the models use."""

from __future__ import annotations

import ctypes
import gc
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from inference_server.errors import ModelUnavailableError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Names of glibc's options, from its `malloc.h`."""


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

    @property
    def dtype_name(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def cache_dtype_name(self) -> str:
        """`float32`, `bfloat16` or `float16`."""
        return str(self.cache_dtype).removeprefix("torch.")

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


@cache
def available_threads() -> int:
    """How many threads PyTorch would use: one a core that this process may run on.

    `OMP_NUM_THREADS` is honoured. Asked for once, before any thread is given its share.
    """
    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Let torch's operations that the calling thread starts use so many threads.

    The number belongs to the thread, so lanes can divide the cores between them.
    """
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, up to a bound, instead of giving it back at once.

    Every array of some 100 KB or more would otherwise be new pages each time, which the kernel has
    to clear and map: 5,000 page faults a click, measured, a fifth of its time. glibc alone; other
    allocators keep memory by themselves.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
    libc.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)
    # Threads other than the first have heaps of 64 MB at most, which are given back as soon as they
    # are empty: for an encoder in a thread of its own, half as many faults again.
    libc.mallopt(_M_ARENA_MAX, 1)


def release_memory() -> None:
    """Give back what was kept of freed memory: to the system, and on a GPU to other processes."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def memory_in_use(device: torch.device) -> dict[str, int]:
    """Bytes of a GPU's memory that this process takes; empty for other devices.

    Args:
        device: that the models compute on.

    Returns:
        `allocated`, which tensors take, and `reserved`, which is kept for them.
    """
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
    }


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


def accelerator() -> str:
    """Name of the GPU, for people; `none` without one."""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "none"
