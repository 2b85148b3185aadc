"""CUDA graphs: work whose shapes repeat is launched at once, instead of kernel by kernel.

A click is some two hundred small kernels. A GPU of today computes most of them faster than the host
launches them, so the host decides how long a click takes. A graph is recorded once per shape and
launched by a single call. Unlike `torch.compile` it needs no compiler.

A recorded graph reads and writes the same memory whenever it runs: inputs are copied to it and
results from it, both on the device.

This was written and tested without a GPU: tests replace the recording. So a graph is checked when
it is recorded, and a recording that fails or yields other results turns graphs off.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

logger = logging.getLogger(__name__)

Body = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
"""Work on the device that waits for nothing, copies nothing from the host, and does the same for
all inputs of the same shapes."""

Recorded = tuple[Callable[[], object], tuple[Tensor, ...]]
"""What repeats the work, and the tensors that it then writes."""

_WARM_UPS = 3
"""Runs before a recording, as PyTorch's documentation advises: libraries choose their kernels and
allocate workspaces then."""

_TOLERANCE = 1e-2
"""Maximum difference between a graph's results and the plain ones, relative to the largest."""

_REMEMBERED = 256
"""Shapes that were used once and are remembered, to record a graph at their second use."""

_RECORDING = threading.Lock()
"""Held while a graph is recorded, because several models may do so at a time."""


def bucket(count: int, limit: int) -> int | None:
    """The number that a batch is padded to, so that few shapes occur: the next power of two.

    Args:
        count: Size of the batch, at least 1.
        limit: Largest result, a power of two.

    Returns:
        The padded size; None if the batch is larger than the limit.
    """
    size = 1 << (count - 1).bit_length()
    return size if size <= limit else None


@dataclass(frozen=True, slots=True)
class _Graph:
    """A recorded graph.

    Attributes:
        inputs: Tensors that it reads.
        replay: Runs it.
        outputs: Tensors that it writes.
    """

    inputs: list[Tensor]
    replay: Callable[[], object]
    outputs: tuple[Tensor, ...]


class Graphs:
    """The graphs of one model. Thread-safe.

    Args:
        device: Device of the model. Without CUDA there are no graphs.
        limit: Maximum number of graphs; 0 for none. Work with further shapes runs without.
        record: Records work on inputs. Default: a CUDA graph.
    """

    def __init__(
        self,
        device: torch.device,
        limit: int,
        *,
        record: Callable[[Body, Sequence[Tensor]], Recorded] | None = None,
    ) -> None:
        self._limit = limit if device.type == "cuda" or record is not None else 0
        self._record = record or Recorder(device)
        self._graphs: dict[Hashable, _Graph] = {}
        self._inputs: dict[Hashable, Tensor] = {}
        self._seen: LRUCache[Hashable, bool] = LRUCache(_REMEMBERED)
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether graphs are in use; if not, inputs need no padding."""
        return self._limit > 0

    @property
    def count(self) -> int:
        """Number of graphs."""
        return len(self._graphs)

    def __call__(self, key: Hashable, body: Body, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run work, as a graph from its second use with the same shapes on.

        Args:
            key: What distinguishes the work from other work on tensors of the same shapes.
            body: The work.
            inputs: Its inputs, on the device; not changed.

        Returns:
            Its results, which later calls do not change.
        """
        if not self.enabled:
            return body(inputs)
        shapes = tuple((each.shape, each.dtype) for each in inputs)
        with self._lock:
            graph = self._graphs.get((key, shapes))
            if graph is not None:
                return self._replayed(graph, inputs)
            if (key, shapes) not in self._seen or self.count >= self._limit:
                self._seen[key, shapes] = True
                return body(inputs)
            return self._recorded((key, shapes), body, inputs)

    def _replayed(self, graph: _Graph, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for own, given in zip(graph.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        graph.replay()
        # Graphs share memory, so another one may write where this one's results are.
        return tuple(output.clone() for output in graph.outputs)

    def _recorded(self, key: Hashable, body: Body, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Record a graph, check it, and return the plain results."""
        expected = body(inputs)
        try:
            own = [self._own_input(index, each) for index, each in enumerate(inputs)]
            with _RECORDING:
                graph = _Graph(own, *self._record(body, own))
            found = self._replayed(graph, inputs)
            if not all(_are_equal(*pair) for pair in zip(found, expected, strict=True)):
                raise RuntimeError("its results differ from those of the same work without it")
        except Exception as error:  # CUDA's errors have many classes
            self._limit = 0
            self._graphs.clear()
            self._inputs.clear()
            logger.warning(
                "CUDA graphs are off for this model: recording one failed (%s). Requests are "
                "answered without; set INFERENCE_CUDA_GRAPHS=0 to avoid the attempt.",
                str(error).partition("\n")[0],
            )
        else:
            self._graphs[key] = graph
        return expected

    def _own_input(self, index: int, given: Tensor) -> Tensor:
        """A tensor that graphs read an input from; they share it, because they run one by one."""
        key = index, given.shape, given.dtype
        if key not in self._inputs:
            self._inputs[key] = given.clone(memory_format=torch.contiguous_format)
        return self._inputs[key]


def _are_equal(found: Tensor, expected: Tensor) -> bool:
    if not expected.numel():
        return True
    found, expected = found.float(), expected.float()
    largest = expected.abs().max().item()
    return (found - expected).abs().max().item() <= _TOLERANCE * largest + 1e-6


class Recorder:
    """Records CUDA graphs, which share their memory for what is computed in between.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, body: Body, inputs: Sequence[Tensor]) -> Recorded:
        """Record work.

        Args:
            body: The work.
            inputs: Tensors that the graph reads.
        """
        cuda: Any = torch.cuda
        with cuda.device(self._device):
            # Not on the default stream, where recording is not possible.
            stream = cuda.Stream()
            stream.wait_stream(cuda.current_stream())
            with cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    body(inputs)
            cuda.current_stream().wait_stream(stream)
            if self._pool is None:
                self._pool = cuda.graph_pool_handle()
            graph = cuda.CUDAGraph()
            # Only this thread is restricted: others go on encoding.
            with cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = body(inputs)
        return graph.replay, outputs
