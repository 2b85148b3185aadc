"""Handle out-of-memory errors, on a GPU or on the host.

PyTorch's allocator fails without side effects, so work can be retried once memory is free. The
exception's traceback refers to the frames of the forward pass, and these to its tensors, so memory
can be released only after the exception is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch

from inference_server.engines.device import release_memory
from inference_server.errors import MemoryShortageError

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_SIGNS = (
    "out of memory",  # CUDA and other devices
    "can't allocate memory",  # the host's allocator
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)
"""Messages of `RuntimeError`s that mean the same as `torch.OutOfMemoryError`."""

_RETRY_AFTER = 2.0
"""Value of the `Retry-After` header in seconds."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def raise_on_oom(what: str, work: Callable[[], T]) -> T:
    """Run work; if memory runs out, release unused memory and raise `MemoryShortageError`.

    Args:
        what: Description of the work for the error message, such as `sam2 encode`.
        work: The work to run.

    Returns:
        The result of `work`.

    Raises:
        MemoryShortageError: Memory ran out; unused memory has been released.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # After the except block, where the exception and its tensors are gone.
    release_memory()
    raise MemoryShortageError(
        f"There is no memory left for the {what}. Try again shortly, or lower "
        "INFERENCE_EMBEDDING_CACHE_MB, INFERENCE_ENCODE_BATCH or INFERENCE_DECODE_BATCH.",
        _RETRY_AFTER,
    )


def split_batch_on_oom(
    name: str, work: Callable[[Sequence[ItemT]], Sequence[ResultT]]
) -> Callable[[Sequence[ItemT]], Sequence[ResultT]]:
    """Wrap work so that a batch which runs out of memory is split in halves and retried.

    Args:
        name: Description of the work for the error message.
        work: Maps a batch of items to one result per item.

    Returns:
        The wrapped work. It raises `MemoryShortageError` if a single item runs out of memory.
    """
    # Not a recursive closure: its reference cycle would keep the weights in memory until the next
    # garbage collection.
    return partial(_halving, name, work)


def _halving(
    name: str, work: Callable[[Sequence[ItemT]], Sequence[ResultT]], items: Sequence[ItemT]
) -> Sequence[ResultT]:
    try:
        return raise_on_oom(name, lambda: work(items))
    except MemoryShortageError:
        if len(items) == 1:
            raise
    half = len(items) // 2
    return [*_halving(name, work, items[:half]), *_halving(name, work, items[half:])]
