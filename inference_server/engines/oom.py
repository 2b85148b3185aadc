"""What to do where memory runs out, on a GPU or on the host.

PyTorch's allocator fails before anything was computed, so that nothing is broken: what is needed is
room. The exception's traceback holds the frames of the forward, and these hold its tensors;
only without it is there something to give back.
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
    "out of memory",  # the driver's own, and those of other devices
    "can't allocate memory",  # the allocator of the host
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)
"""What `RuntimeError`s say that mean the same as `torch.OutOfMemoryError`."""

_RETRY_AFTER = 2.0


def is_out_of_memory(error: Exception) -> bool:
    """Whether something failed because there was no memory for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def raise_on_oom(what: str, work: Callable[[], T]) -> T:
    """Do work, and make room where there is no memory for it.

    Args:
        what: the work is, for clients.
        work: to do.

    Raises:
        MemoryShortageError: memory did not suffice; what could be given back has been.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Out of the block, where the exception is gone and with it the tensors.
    release_memory()
    raise MemoryShortageError(
        f"There is no memory left for the {what}. Try again shortly, or lower "
        "INFERENCE_EMBEDDING_CACHE_MB, INFERENCE_ENCODE_BATCH or INFERENCE_DECODE_BATCH.",
        _RETRY_AFTER,
    )


def split_batch_on_oom(
    name: str, work: Callable[[Sequence[ItemT]], Sequence[ResultT]]
) -> Callable[[Sequence[ItemT]], Sequence[ResultT]]:
    """Let work do its items in smaller batches where memory does not suffice for all at once.

    Args:
        name: of the work, for people.
        work: from a batch of items to as many results.

    Returns:
        The same, which raises `MemoryShortageError` where one item alone is too much.
    """
    # No function that names itself from within: that holds on to the work, and so to the weights in
    # it, until garbage is collected.
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
