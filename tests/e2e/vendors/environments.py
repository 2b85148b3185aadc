"""Virtual environments with vendors' programs, whose dependencies contradict this project's.

They are made when a test first needs them, and kept in `build/vendors`. A program's pins are in
`<name>.txt` beside this module. They are complete, so pip resolves nothing, and leave out what the
tests do not import.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KEPT = HERE.parents[2] / "build" / "vendors"
MADE = "made"
"""File that marks a complete environment."""


def environment(name: str, *, with_own: bool = False) -> Path:
    """Return the interpreter of a vendor's environment, which is made if it does not exist.

    Args:
        name: name of the file with its pins.
        with_own: whether it also has the packages of this project's environment. Default: False.
    """
    pins = HERE / f"{name}.txt"
    wanted = f"{sys.version} {sys.prefix} {with_own} {pins.read_text()}"
    directory = KEPT / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f"{name}.lock").open("w") as lock:  # test processes run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / MADE).exists():
            _make(directory, pins, with_own=with_own)
    return directory / "bin" / "python"


def _make(directory: Path, pins: Path, *, with_own: bool) -> None:
    python = str(directory / "bin" / "python")
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(directory))
    options = ("--disable-pip-version-check", "--quiet", "--no-deps", "--no-compile")
    # This project's pip, because installing another one takes seconds.
    done = _run(
        *(sys.executable, "-m", "pip", "--python", python, "install", *options, "-r", str(pins)),
        check=False,
    )
    if done.returncode != 0 and not os.environ.get("CI"):
        pytest.skip(f"{pins.stem} cannot be installed: {done.stderr[-500:]}")
    assert done.returncode == 0, done.stderr
    if with_own:
        site = next(directory.glob("lib/python*/site-packages"))
        (site / "own.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (directory / MADE).touch()


def _run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=280, check=check)
