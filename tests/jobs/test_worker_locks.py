"""Locks of running and of crashed processes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server.jobs.worker_locks import WorkerLocks

HOLD = "import sys, pathlib; from inference_server.jobs.worker_locks import WorkerLocks; "
HOLD += "o = WorkerLocks(pathlib.Path(sys.argv[1])); print(o.name, flush=True); sys.stdin.read()"


def test_a_killed_process_is_noticed_and_a_living_one_left_alone(tmp_path: Path) -> None:
    here = WorkerLocks(tmp_path / "workers")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "workers")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout
    assert other.stdin
    name = other.stdout.readline().strip()
    assert not here.is_dead(name)
    assert not here.is_dead(here.name)
    here.sweep()
    assert {file.name for file in (tmp_path / "workers").iterdir()} == {name, here.name}
    other.kill()
    other.communicate()
    assert here.is_dead(name)
    assert here.is_dead(name)
    assert [file.name for file in (tmp_path / "workers").iterdir()] == [here.name]
    here.close()
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_file_that_was_made_anew_while_it_was_judged_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A starting process creates its file again if another one removed it before it was locked."""
    here = WorkerLocks(tmp_path)
    locks: list[int] = []
    file = tmp_path / "beginner"
    file.touch()
    real = fcntl.flock

    def slow(lock: int, operation: int) -> None:
        if not locks:
            file.unlink()
            locks.append(os.open(file, os.O_CREAT | os.O_RDWR))
            real(locks[0], fcntl.LOCK_EX)
        real(lock, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    assert not here.is_dead("beginner")
    assert file.exists()
    os.close(locks[0])
    assert here.is_dead("beginner")
    assert not file.exists()
    here.close()


def test_one_that_stopped_is_dead(tmp_path: Path) -> None:
    one, other = WorkerLocks(tmp_path), WorkerLocks(tmp_path)
    assert not one.is_dead(other.name)
    other.close()
    assert one.is_dead(other.name)
    one.close()


def test_where_only_leases_count_nobody_is_dead() -> None:
    owners = WorkerLocks(None)
    assert not owners.is_dead("somebody")
    owners.sweep()
    owners.close()
