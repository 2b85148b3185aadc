"""Locks of running and of crashed processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inference_server.jobs import worker_locks
from inference_server.jobs.worker_locks import WorkerLocks

HOLD = "import sys, pathlib; from inference_server.jobs.worker_locks import WorkerLocks; "
HOLD += "o = WorkerLocks(pathlib.Path(sys.argv[1])); print(o.name, flush=True); sys.stdin.read()"


def test_only_a_killed_process_counts_as_crashed(tmp_path: Path) -> None:
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


def test_a_file_recreated_during_the_check_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A starting process recreates its file if another one removed it before the lock."""
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


def test_a_file_that_is_gone_proves_nothing(tmp_path: Path) -> None:
    """Somebody may have removed the directory while the other process goes on."""
    one, other = WorkerLocks(tmp_path / "workers"), WorkerLocks(tmp_path / "workers")
    shutil.rmtree(tmp_path / "workers")
    assert not one.is_dead(other.name)
    assert not one.is_dead(one.name)
    one.keep()
    assert not one.is_dead(other.name)
    one.sweep()
    other.keep()
    assert {file.name for file in (tmp_path / "workers").iterdir()} == {one.name, other.name}
    assert not one.is_dead(other.name)
    assert not other.is_dead(one.name)
    other.close()
    one.close()
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_not_the_end(tmp_path: Path) -> None:
    """A data directory that is missing is not made anew: it would hide the one that comes back."""
    data = tmp_path / "data"
    data.mkdir()
    locks = WorkerLocks(data / "workers")
    shutil.rmtree(data)
    with pytest.raises(FileNotFoundError):
        locks.keep()
    assert not data.exists()
    data.mkdir()
    locks.keep()
    assert [file.name for file in (data / "workers").iterdir()] == [locks.name]
    locks.close()


def test_a_directory_that_comes_back_during_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has the lock of the file that is there again, and must not wait for itself."""
    directory, away = tmp_path / "workers", tmp_path / "away"
    here, other = WorkerLocks(directory), WorkerLocks(directory)
    directory.rename(away)
    real = worker_locks._is_at

    def back_after(lock: int, file: Path) -> bool:
        found = real(lock, file)
        if away.exists():
            away.rename(directory)
        return found

    monkeypatch.setattr(worker_locks, "_is_at", back_after)
    keeping = threading.Thread(target=here.keep, daemon=True)
    keeping.start()
    keeping.join(60)
    assert not keeping.is_alive()
    assert not other.is_dead(here.name)
    other.close()
    here.close()
    assert list(directory.iterdir()) == []


def test_a_crashed_process_stays_crashed(tmp_path: Path) -> None:
    """Its file is removed at once, but requeueing its jobs may fail for now."""
    here = WorkerLocks(tmp_path)
    (tmp_path / "crashed").touch()
    here.sweep()
    assert not (tmp_path / "crashed").exists()
    assert here.is_dead("crashed")
    here.close()


def test_without_locks_no_process_counts_as_crashed() -> None:
    owners = WorkerLocks(None)
    assert not owners.is_dead("somebody")
    owners.sweep()
    owners.close()
