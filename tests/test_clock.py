"""The clock of leases: it does not jump, and all processes read the same."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from inference_server import clock
from inference_server.clock import SteadyClock


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine whose clocks and boot id the test sets."""
    here = SimpleNamespace(wall=1_800_000_000.0, up=500.0, boot="one")
    monkeypatch.setattr(time, "time", lambda: here.wall)
    monkeypatch.setattr(clock, "since_boot", lambda: here.up)
    monkeypatch.setattr(clock, "boot_id", lambda: here.boot)
    return here


def test_it_begins_with_the_system_clock_and_does_not_jump(machine: SimpleNamespace) -> None:
    steady = SteadyClock()
    assert steady.now() == 1_800_000_000
    machine.up += 30
    for jump in (-3600, 86400):
        machine.wall += jump
        assert steady.now() == 1_800_000_030


def test_other_processes_read_the_same_until_the_next_boot(machine: SimpleNamespace) -> None:
    steady = SteadyClock()
    machine.wall -= 3600
    machine.up += 5
    other = SteadyClock(steady.state)
    assert other.state == steady.state
    assert other.now() == steady.now() == 1_800_000_005
    machine.boot, machine.up = "two", 1.0
    rebooted = SteadyClock(steady.state)
    assert rebooted.now() == machine.wall
    assert rebooted.state.startswith("two ")


def test_without_a_boot_id_it_is_the_system_clock(machine: SimpleNamespace) -> None:
    machine.boot = ""
    steady = SteadyClock("one 12.0")
    assert steady.state == ""
    machine.wall += 7
    assert steady.now() == machine.wall
