"""Processes that live, and processes that have died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from inference_server.jobs.owners import Owners

HOLD = "import sys, pathlib; from inference_server.jobs.owners import Owners; "
HOLD += "o = Owners(pathlib.Path(sys.argv[1])); print(o.name, flush=True); sys.stdin.read()"


def test_a_killed_process_is_noticed_and_a_living_one_left_alone(tmp_path: Path) -> None:
    here = Owners(tmp_path / "workers")
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


def test_one_that_stopped_is_dead(tmp_path: Path) -> None:
    one, other = Owners(tmp_path), Owners(tmp_path)
    assert not one.is_dead(other.name)
    other.close()
    assert one.is_dead(other.name)
    one.close()


def test_where_only_leases_count_nobody_is_dead() -> None:
    owners = Owners(None)
    assert not owners.is_dead("somebody")
    owners.sweep()
    owners.close()
