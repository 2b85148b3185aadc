"""The faster arithmetic of a CPU, measured with products that take a given time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from inference_server.engines import arithmetic
from inference_server.engines.arithmetic import Speed, cpu_speed, measure
from inference_server.engines.device import available_threads, use_threads


class Machine:
    """A machine whose products take these seconds per pixel, and more while it is busy.

    Attributes:
        now: Seconds that have passed.
        products: Products that have run, by dtype and pixels.
    """

    def __init__(self, float32: float, bfloat16: float, busy: int = 0) -> None:
        self.now = 0.0
        self.products: list[tuple[torch.dtype, int]] = []
        self._cost = {torch.float32: float32, torch.bfloat16: bfloat16}
        self._busy = busy

    def product(self, dtype: torch.dtype, pixels: int) -> Callable[[], None]:
        def work() -> None:
            slower = 9 if len(self.products) < self._busy else 1
            self.products.append((dtype, pixels))
            self.now += slower * pixels * self._cost[dtype]

        return work

    def measure(self) -> Speed:
        return measure(self.product, lambda: self.now)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "prefers"),
    [(2e-5, 1e-5, True), (1.25e-5, 1e-5, True), (1.1e-5, 1e-5, False), (1e-5, 2e-5, False)],
)
def test_bfloat16_must_be_a_fifth_faster(float32: float, bfloat16: float, prefers: bool) -> None:
    assert Machine(float32, bfloat16).measure().prefers_bfloat16 is prefers


def test_the_best_of_several_turns_counts() -> None:
    found = Machine(2e-6, 1e-6, busy=9).measure()
    assert found.float32 == pytest.approx(128e-6)
    assert found.bfloat16 == pytest.approx(64e-6)


def test_slow_emulation_is_noticed_in_a_small_product() -> None:
    machine = Machine(1e-6, 1e-3)
    assert not machine.measure().prefers_bfloat16
    assert {pixels for _, pixels in machine.products} == {8}


def test_a_slow_machine_is_measured_in_three_turns() -> None:
    machine = Machine(1e-2, 1e-2)
    machine.measure()
    assert [pixels for _, pixels in machine.products].count(64) == 2 * (1 + 3)


def test_models_that_load_together_share_one_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second one would begin with one thread, and take that for the number to restore."""
    arithmetic._measured.cache_clear()
    measuring, may_end = threading.Event(), threading.Event()
    threads: list[int] = []

    def slow() -> Speed:
        threads.append(torch.get_num_threads())
        measuring.set()
        assert may_end.wait(60)
        return Speed(1.0, 1.0)

    monkeypatch.setattr(arithmetic, "measure", slow)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(cpu_speed)
            assert measuring.wait(60)
            second = pool.submit(cpu_speed)
            may_end.set()
            assert first.result() is second.result()
    finally:
        arithmetic._measured.cache_clear()
    assert threads == [1]


def test_the_number_of_available_threads_is_not_that_of_a_queue() -> None:
    before = available_threads()

    def in_a_queue() -> int:
        use_threads(before + 1)
        return available_threads()

    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(in_a_queue).result() == before
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(available_threads).result() == before
    finally:
        torch.set_num_threads(before)


def test_this_machine_is_measured_once_per_process() -> None:
    found = cpu_speed()
    assert found.float32 > 0
    assert found.bfloat16 > 0
    assert cpu_speed() is found
