"""Where an image encoder's time goes, and how fast its matrix products alone could be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.report import Cell
from inference_server.engines.linear import has_packing

LINEAR, ATTENTION, NORM, GELU = "linear layers", "attention", "norms", "GELU"
PATCHES, NECK, COPIES, REST = "patches", "neck", "casts and copies", "rest"
PARTS = (LINEAR, ATTENTION, NORM, GELU, PATCHES, NECK, COPIES, REST)
"""Parts of an encoder. GELU counts as part of the linear layer that it is fused with."""

_OPERATIONS = {
    LINEAR: ("_linear_pointwise", "linear", "addmm", "mm"),
    ATTENTION: (
        "bmm",
        "baddbmm",
        "baddbmm_",
        "matmul",
        "softmax",
        "_softmax",
        "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    ),
    NORM: ("layer_norm", "native_layer_norm"),
    GELU: ("gelu", "gelu_"),
    PATCHES: ("conv2d", "convolution", "_convolution"),
    COPIES: (
        "_to_copy",
        "cat",
        "clone",
        "contiguous",
        "copy_",
        "flatten",
        "index",
        "index_put_",
        "index_select",
        "reshape",
        "to",
    ),
}
_PART_OF = {name: part for part, names in _OPERATIONS.items() for name in names}

Times = Mapping[str, float]
"""CPU seconds by part."""


@dataclass(frozen=True, slots=True)
class Product:
    """A batch of matrix products of one shape.

    Attributes:
        batch: number of products; 1 for a linear layer.
        rows: rows of the result.
        inner: length of the sums.
        columns: columns of the result.
    """

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.rows * self.inner * self.columns


@dataclass(slots=True)
class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, records the CPU time and the matrix products of each operation.

    Attributes:
        part: part that all operations count as; None for the part of their kind.
        times: CPU seconds of each operation and its part, in order.
        products: how often each product was computed.
    """

    part: str | None = None
    times: list[tuple[str, float]] = field(default_factory=list)
    products: Counter[Product] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Initialise the base class, which a dataclass does not."""
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and record it."""
        begin = time.thread_time()
        found = func(*args, **(kwargs or {}))
        seconds = time.thread_time() - begin
        name = func._schema.name.rpartition("::")[2]
        self.times.append((self.part or _PART_OF.get(name, REST), seconds))
        self.products.update(_products(name, args, found))
        return found

    @contextmanager
    def counting_as(self, part: str) -> Iterator[None]:
        """Count all operations as one part.

        Args:
            part: one of `PARTS`.
        """
        self.part = part
        try:
            yield
        finally:
            self.part = None

    @contextmanager
    def marking(self, owner: Any, attribute: str, part: str) -> Iterator[None]:
        """Count all operations of a callable attribute as one part.

        Args:
            owner: object with the attribute.
            attribute: its name.
            part: one of `PARTS`.
        """
        work = getattr(owner, attribute)

        def marked(*args: Any) -> Any:
            with self.counting_as(part):
                return work(*args)

        setattr(owner, attribute, marked)
        try:
            yield
        finally:
            setattr(owner, attribute, work)


def _products(name: str, args: Sequence[Any], found: Any) -> Iterator[Product]:
    """Yield the matrix products of an operation."""
    if name in ("_linear_pointwise", "linear"):
        *shape, inner = args[0].shape
        yield Product(1, prod(shape), inner, found.shape[-1])
    elif name in ("addmm", "mm"):
        one, other = args[-2:] if name == "mm" else args[1:3]
        yield Product(1, one.shape[0], one.shape[1], other.shape[1])
    elif name == "matmul" and args[1].ndim > 2:
        *batch, rows, columns = found.shape
        yield Product(prod(batch), rows, args[0].shape[-1], columns)
    elif name == "matmul":
        yield Product(1, found[..., 0].numel(), args[0].shape[-1], found.shape[-1])
    elif name in ("bmm", "baddbmm", "baddbmm_"):
        one, other = args[:2] if name == "bmm" else args[1:3]
        batch, rows, inner = one.shape
        yield Product(batch, rows, inner, other.shape[2])
    elif "scaled_dot_product" in name:
        queries, keys, values = (each.shape for each in args[:3])
        batch = prod(queries[:-2])
        yield Product(batch, queries[-2], queries[-1], keys[-2])
        yield Product(batch, queries[-2], keys[-2], values[-1])
    elif name in ("conv2d", "convolution", "_convolution", "conv_transpose2d"):
        yield _of_convolution(name, args, found)


def _of_convolution(name: str, args: Sequence[Any], found: Tensor) -> Product:
    """Return the matrix product that a convolution is."""
    planes, weight = args[:2]
    is_transposed = name == "conv_transpose2d" or (name != "conv2d" and args[6])
    if is_transposed:  # each input pixel is multiplied; the weight is [in, out, h, w]
        return Product(1, planes[:, 0].numel(), weight.shape[0], weight[0].numel())
    return Product(1, found[:, 0].numel(), weight[0].numel(), weight.shape[0])


@torch.inference_mode()
def parts_of(
    work: Callable[[Recorder], object], rounds: int
) -> tuple[dict[str, float], Counter[Product]]:
    """Run an encoder and return where its time goes.

    Args:
        work: runs the encoder; may tell the recorder which part follows.
        rounds: number of runs that count, after one that does not.

    Returns:
        CPU seconds by part, of each operation the best of all runs, and the matrix products.
    """
    runs = []
    recorder = Recorder()
    for turn in range(rounds + 1):
        recorder = Recorder()
        with recorder:
            work(recorder)
        if turn:
            runs.append(recorder.times)
    best = dict.fromkeys(PARTS, 0.0)
    for same in zip(*runs, strict=True):  # the same operation of each run
        best[same[0][0]] += min(seconds for _, seconds in same)
    return best, recorder.products


@dataclass(frozen=True, slots=True)
class Floor:
    """How fast an encoder's matrix products are alone.

    Attributes:
        operations: multiplications and additions of all products.
        seconds: CPU seconds of all products back to back.
        rate: operations per CPU second of the fastest product.
    """

    operations: int
    seconds: float
    rate: float

    @property
    def at_best_rate(self) -> float:
        """CPU seconds of all products if each was as fast as the fastest one."""
        return self.operations / self.rate


@torch.inference_mode()
def floor_of(products: Counter[Product], dtype: torch.dtype, rounds: int) -> Floor:
    """Measure matrix products alone, each in the layout of its operands that is fastest for it.

    Args:
        products: how often each is computed.
        dtype: dtype of the operands and results.
        rounds: timed calls of each product and layout, after one that does not count.
    """
    taken = {each: _seconds(each, dtype, rounds) for each in products}
    return Floor(
        sum(each.operations * count for each, count in products.items()),
        sum(taken[each] * count for each, count in products.items()),
        max(each.operations / seconds for each, seconds in taken.items()),
    )


_SHORTEST = 2e-3
"""CPU seconds that a timed call takes at least; shorter products are repeated."""


def _seconds(product: Product, dtype: torch.dtype, rounds: int) -> float:
    """Return the best CPU seconds of a product over layouts and rounds."""
    best = float("inf")
    for layout in _layouts(product, dtype):
        begin = time.thread_time()
        layout()
        repeats = max(1, round(_SHORTEST / max(time.thread_time() - begin, 1e-6)))
        for _ in range(rounds):
            begin = time.thread_time()
            for _ in range(repeats):
                layout()
            best = min(best, (time.thread_time() - begin) / repeats)
    return best


def _layouts(product: Product, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Yield the ways to compute a product: operands laid out in advance where that is possible."""
    left = torch.randn(product.batch, product.rows, product.inner).to(dtype)
    right = torch.randn(product.batch, product.columns, product.inner).to(dtype)
    if product.batch > 1:
        straight = right.transpose(1, 2).contiguous()
        result = torch.empty(product.batch, product.rows, product.columns, dtype=dtype)
        yield lambda: torch.bmm(left, right.transpose(1, 2), out=result)
        yield lambda: torch.bmm(left, straight, out=result)
        return
    rows, weight = left[0], right[0]
    transposed = weight.T.contiguous()
    yield lambda: F.linear(rows, weight)
    yield lambda: torch.mm(rows, transposed)
    if has_packing(left.device, dtype):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, product.rows)
        yield lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")


def parts_row(model: str, encoder: str, times: Times, whole: float) -> dict[str, Cell]:
    """Return a row of the table of parts.

    Args:
        model: name of the model.
        encoder: name of the implementation.
        times: see `parts_of`.
        whole: CPU seconds of the encoder without a recorder.
    """
    total = sum(times.values())
    row: dict[str, Cell] = {"model": model, "encoder": encoder}
    for part in PARTS:
        taken = 1e3 * times[part]
        row[f"{part} (ms)"] = f"{taken:,.{0 if total > 1 else 1}f} ({times[part] / total:.0%})"
    row["sum (ms)"] = 1e3 * total
    row["without recording (ms)"] = 1e3 * whole
    return row


def floor_row(
    model: str, encoder: str, floor: Floor, whole: float, bare: float, goal: float | None
) -> dict[str, Cell]:
    """Return a row of the table of floors.

    Args:
        model: name of the model.
        encoder: name of the implementation.
        floor: see `floor_of`.
        whole: CPU seconds of the encoder.
        bare: CPU seconds of the unmodified encoder in float32.
        goal: maximum of `whole / bare`; None if there is none.
    """
    share = floor.seconds / bare
    if goal is None:
        possible = "no goal"
    elif whole / bare <= goal:
        possible = "met"
    else:
        possible = "no: the products alone take longer" if share > goal else "yes"
    return {
        "model": model,
        "encoder": encoder,
        "products (GFLOP)": floor.operations / 1e9,
        "products alone (ms)": 1e3 * floor.seconds,
        "at the best rate (ms)": 1e3 * floor.at_best_rate,
        "best rate (GFLOP/s)": floor.rate / 1e9,
        "encoder over products (x)": whole / floor.seconds,
        "products over unmodified float32 (x)": share,
        "goal (x)": goal or "none",
        "possible": possible,
    }
