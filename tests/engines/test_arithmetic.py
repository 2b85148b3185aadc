"""The faster arithmetic of a CPU, measured with products that take a given time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from inference_server.engines.arithmetic import Speed, cpu_speed, measure


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


def test_this_machine_is_measured_once_per_process() -> None:
    found = cpu_speed()
    assert found.float32 > 0
    assert found.bfloat16 > 0
    assert cpu_speed() is found
