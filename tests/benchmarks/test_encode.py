"""The benchmark of image encoders: where the time goes, and the products alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor, nn

from benchmarks import encode, encoder_parts
from benchmarks.encoder_parts import (
    ATTENTION,
    COPIES,
    GELU,
    LINEAR,
    NECK,
    NORM,
    PARTS,
    PATCHES,
    Floor,
    Product,
    Recorder,
    floor_of,
    floor_row,
    parts_of,
)
from inference_server.engines.linear import Linear

ROWS = torch.ones(2, 6, 8)
WEIGHT = torch.ones(5, 8)
PLANES = torch.ones(1, 3, 8, 8)
HEADS = torch.ones(2, 3, 6, 8)


def packed(rows: Tensor) -> Tensor:
    return Linear(WEIGHT, torch.ones(5), torch.float32)(rows)


def packed_sum(rows: Tensor) -> Tensor:
    return Linear(WEIGHT, torch.ones(5), torch.float32).plus(rows, torch.ones(2, 6, 5))


@pytest.mark.parametrize(
    ("work", "part", "products"),
    [
        (lambda: packed(ROWS), LINEAR, [Product(1, 12, 8, 5)]),
        (lambda: packed_sum(ROWS), LINEAR, [Product(1, 12, 8, 5)]),
        (lambda: F.linear(ROWS, WEIGHT, torch.ones(5)), LINEAR, [Product(1, 12, 8, 5)]),
        (lambda: torch.mm(ROWS[0], WEIGHT.T), LINEAR, [Product(1, 6, 8, 5)]),
        (lambda: torch.addmm(torch.ones(5), ROWS[0], WEIGHT.T), LINEAR, [Product(1, 6, 8, 5)]),
        (lambda: torch.bmm(ROWS, ROWS.transpose(1, 2)), ATTENTION, [Product(2, 6, 8, 6)]),
        (
            lambda: torch.baddbmm(torch.ones(1), ROWS, ROWS.transpose(1, 2)),
            ATTENTION,
            [Product(2, 6, 8, 6)],
        ),
        (lambda: ROWS @ ROWS.transpose(1, 2), ATTENTION, [Product(2, 6, 8, 6)]),
        (lambda: HEADS @ HEADS[:1].mT, ATTENTION, [Product(6, 6, 8, 6)]),
        (
            lambda: F.scaled_dot_product_attention(HEADS, HEADS[:, :, :4], HEADS[:, :, :4]),
            ATTENTION,
            [Product(6, 6, 8, 4), Product(6, 6, 4, 8)],
        ),
        (lambda: ROWS.softmax(-1), ATTENTION, []),
        (lambda: F.layer_norm(ROWS, (8,)), NORM, []),
        (lambda: F.gelu(ROWS), GELU, []),
        (
            lambda: F.conv2d(PLANES, torch.ones(4, 3, 2, 2), stride=2),
            PATCHES,
            [Product(1, 16, 12, 4)],
        ),
        (lambda: ROWS.transpose(0, 1).contiguous(), COPIES, []),
        (lambda: ROWS.to(torch.bfloat16), COPIES, []),
        (lambda: ROWS.index_select(1, torch.tensor([2, 0])), COPIES, []),
    ],
)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_operations_and_products_are_recognised(
    work: Callable[[], Tensor], part: str, products: list[Product], mode: Callable[[], Any]
) -> None:
    with mode():
        work()  # weights that are laid out in it are not what is recorded
        recorder = Recorder()
        with recorder:
            work()
    assert part in {name for name, _ in recorder.times}
    assert recorder.products == Counter(products)


@torch.inference_mode()
def test_a_product_with_one_matrix_is_one_product() -> None:
    recorder = Recorder()
    with recorder:
        HEADS @ WEIGHT.T
    assert recorder.products == Counter([Product(1, 36, 8, 5)])


@torch.inference_mode()
def test_a_transposed_convolution_multiplies_each_pixel_once() -> None:
    recorder = Recorder()
    with recorder:
        F.conv_transpose2d(PLANES, torch.ones(3, 4, 2, 2), stride=2)
    assert recorder.products == Counter([Product(1, 64, 3, 16)])


def test_a_marked_attribute_counts_as_its_part() -> None:
    class Model:
        def __init__(self) -> None:
            self.neck: Callable[[Tensor], Tensor] = nn.Linear(8, 8)

        def __call__(self) -> Tensor:
            return self.neck(F.layer_norm(ROWS, (8,)))

    model = Model()
    neck = model.neck

    def work(recorder: Recorder) -> object:
        with recorder.marking(model, "neck", NECK):
            return model()

    times, products = parts_of(work, 2)
    assert model.neck is neck
    assert {part for part, seconds in times.items() if seconds} == {NORM, NECK}
    assert products == Counter([Product(1, 12, 8, 8)])


def test_the_best_of_each_operation_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of a norm and a softmax: 9 and 9 do not count, then 2 and 5, then 3 and 1."""
    durations = iter([9, 9, 2, 5, 3, 1])
    now, is_begin = 0.0, False

    def clock() -> float:
        nonlocal now, is_begin
        is_begin = not is_begin
        if not is_begin:
            now += next(durations)
        return now

    monkeypatch.setattr(time, "thread_time", clock)
    times, _ = parts_of(lambda recorder: torch.softmax(F.layer_norm(ROWS, (8,)), -1), 2)
    assert times[NORM] == 2
    assert times[ATTENTION] == 1
    assert sum(times.values()) == 3


def test_the_floor_is_of_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = Product(1, 10, 10, 5), Product(3, 10, 10, 10)
    seconds = {slow: 2.0, fast: 1.0}
    monkeypatch.setattr(encoder_parts, "_seconds", lambda product, *_: seconds[product])
    floor = floor_of(Counter({slow: 2, fast: 4}), torch.float32, 1)
    assert floor == Floor(operations=2 * 1000 + 4 * 6000, seconds=8.0, rate=6000)
    assert floor.at_best_rate == pytest.approx(26 / 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_any_layout_are_the_same(dtype: torch.dtype) -> None:
    for product in (Product(1, 6, 8, 5), Product(2, 6, 8, 5)):
        results: list[Any] = [layout() for layout in encoder_parts._layouts(product, dtype)]
        assert len(results) >= 2
        for each in results:
            assert each.shape[-2:] == (6, 5)
            torch.testing.assert_close(each, results[0])


@pytest.mark.parametrize(
    ("seconds", "goal", "possible"),
    [
        (3.0, 0.25, "no: the products alone take longer"),
        (2.0, 0.25, "yes"),
        (4.1, 0.4, "met"),  # in the encoder they may be measured faster than alone
        (3.0, None, "no goal"),
    ],
)
def test_a_goal_below_the_floor_is_impossible(
    seconds: float, goal: float | None, possible: str
) -> None:
    row = floor_row("SAM 3", "here", Floor(10**9, seconds, 1e9), 4.0, 10.0, goal)
    assert row["possible"] == possible
    assert row["encoder over products (x)"] == 4 / seconds
    assert row["products over unmodified float32 (x)"] == seconds / 10


@pytest.mark.parametrize("name", encode.SMALL.rounds)
def test_the_demo_is_divided_into_its_parts(name: str) -> None:
    measured = encode.Measured()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encode.measure(name, measured, 1, 1)
    finally:
        torch.set_num_threads(threads)
    ways = [way for way in measured.seconds[name] if way in (encode.FLOAT32, encode.BFLOAT16)]
    assert [row["encoder"] for row in measured.parts] == ways
    for row in measured.parts:
        shown = {part: str(row[f"{part} (ms)"]) for part in PARTS}
        shares = {
            part: int(text.partition("(")[2].partition("%")[0]) for part, text in shown.items()
        }
        assert 97 <= sum(shares.values()) <= 103
        assert all(shares[part] > 0 for part in (LINEAR, ATTENTION, NORM, NECK))
        assert shares[GELU] == 0 or not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    operations = {row["products (GFLOP)"] for row in measured.floors}
    assert len(operations) == 1  # both arithmetics compute the same products
    report = encode.report_of(measured, [{"model": name, "precision": "float32"}], 0.0)
    text = report.markdown()
    assert "**Where the time goes**" in text
    assert "**Matrix products alone**" in text
