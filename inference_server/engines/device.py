"""Device, dtypes and memory of the models."""

from __future__ import annotations

import ctypes
import gc
import logging
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from inference_server.engines.arithmetic import ADVANTAGE, Speed, cpu_speed
from inference_server.errors import ModelUnavailableError

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Names of glibc's options, from its `malloc.h`."""


@dataclass(frozen=True)
class Compute:
    """A device, the dtype to compute in, and the dtype to cache embeddings in.

    Attributes:
        device: Device of the weights and of all computation.
        dtype: Dtype of matrix products, `torch.float32` or `torch.bfloat16`.
        cache_dtype: Dtype of cached embeddings, `torch.float32`, `torch.bfloat16` or
            `torch.float16`.
        graphs: Maximum CUDA graphs of each model; default 0, none.
        masks_from: Number of masks of a pass from which the device makes them; default 0, never.
    """

    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    graphs: int = 0
    masks_from: int = 0

    @property
    def dtype_name(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def cache_dtype_name(self) -> str:
        """`float32`, `bfloat16` or `float16`."""
        return str(self.cache_dtype).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which matrix products run in `dtype`; weights stay in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def _is_faster_in_bfloat16(device: torch.device, speed: Callable[[], Speed]) -> bool:
    """Whether `INFERENCE_DTYPE=auto` means bfloat16; on a CPU this is measured and logged."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    found = speed()
    logger.info(
        "INFERENCE_DTYPE=auto is %s on this CPU: a product of the models takes %.2f ms in float32 "
        "and %.2f ms in bfloat16 (bfloat16 must be %g times as fast). Set it for the same "
        "arithmetic on all machines and at every start.",
        "bfloat16" if found.prefers_bfloat16 else "float32",
        1000 * found.float32,
        1000 * found.bfloat16,
        ADVANTAGE,
    )
    return found.prefers_bfloat16


_AVAILABLE_THREADS = torch.get_num_threads()
"""Read once, before anything sets a number: what one thread sets is what PyTorch reports in every
thread that has not computed yet."""


def available_threads() -> int:
    """Number of threads that PyTorch uses by default: `OMP_NUM_THREADS`, or one per usable core."""
    return _AVAILABLE_THREADS


def use_threads(count: int) -> None:
    """Set the number of threads for torch operations that the calling thread starts.

    The number is per calling thread, so queues can divide the cores between them.

    Args:
        count: Number of threads, at least 1.
    """
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory up to a limit, instead of returning it to the system at once.

    By default every array of 100 KB or more gets new pages, which the kernel must clear and map:
    5,000 page faults per click, a fifth of its time (measured). Other allocators keep memory by
    default.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the maximum that glibc accepts
    libc.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)
    # Other arenas have heaps of at most 64 MB, which are returned as soon as they are empty: in an
    # encode thread that causes half as many faults again.
    libc.mallopt(_M_ARENA_MAX, 1)


def release_memory() -> None:
    """Return freed memory to the system, and unused GPU memory to other processes."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def memory_in_use(device: torch.device) -> dict[str, int]:
    """GPU memory of this process in bytes; empty for other devices.

    Args:
        device: Device of the models.

    Returns:
        `allocated`, in use by tensors, and `reserved`, held by PyTorch's allocator.
    """
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
    }


def forget_peak_memory(device: torch.device) -> None:
    """Begin a new measurement of `peak_memory`.

    Args:
        device: Device of the models.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Most GPU memory that tensors of this process have taken, in bytes; 0 for other devices.

    Args:
        device: Device of the models.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def choose_compute(
    device: str,
    dtype: str,
    cache_dtype: str = "auto",
    *,
    graphs: int = 0,
    masks_from: int = 0,
    speed: Callable[[], Speed] = cpu_speed,
) -> Compute:
    """Resolve the settings `device`, `dtype` and `embedding_dtype`.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `auto`, `float32` or `bfloat16`.
        cache_dtype: `auto` (the same as `dtype`), `float32`, `bfloat16` or `float16`.
        graphs: Maximum CUDA graphs of each model, on CUDA; default 0.
        masks_from: Number of masks of a pass from which a CUDA device makes them; default 0, never.
        speed: Tells the CPU's speed in each arithmetic, for a `dtype` of `auto`. Default: measures
            it once per process.

    Returns:
        The device and dtypes to use.

    Raises:
        ModelUnavailableError: The device is not available on this machine.
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
        dtype = "bfloat16" if _is_faster_in_bfloat16(chosen, speed) else "float32"
    if cache_dtype == "auto":
        cache_dtype = dtype
    if chosen.type != "cuda":
        graphs = masks_from = 0
    types = getattr(torch, dtype), getattr(torch, cache_dtype)
    return Compute(chosen, *types, graphs, masks_from)


def configure_gpu(compute: Compute, precision: str) -> None:
    """Set how a GPU multiplies float32 tensors in this process; other devices are left as they are.

    Args:
        compute: Device of the models.
        precision: `highest`, `high` (TF32) or `medium`, see `set_float32_matmul_precision`.
    """
    if compute.device.type == "cuda":
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def accelerator() -> str:
    """Name of the GPU, for display; `none` without one."""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "none"
