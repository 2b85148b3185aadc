"""Files that this process has open."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

Opened = Callable[[], list[str]]
"""Returns the temporary files that are open now and were not when the test began."""


def _open_files() -> Iterator[tuple[int, str]]:
    """Yield the number and the target of each descriptor."""
    for number in os.listdir("/proc/self/fd"):
        try:
            yield int(number), os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # closed meanwhile
            continue


def open_below(directory: Path) -> list[str]:
    """Return the open files and directories below a directory, or at its path."""
    return sorted(target for _, target in _open_files() if target.startswith(str(directory)))


@contextmanager
def temporary_files() -> Iterator[Opened]:
    """Tell which temporary files are opened in the block, whether deleted or not.

    Without those of databases, which are opened on demand, one per concurrent thread. Files of
    earlier tests may close meanwhile: a server closes them after its response. Deleted ones are
    held open until the end, because the name of a new one consists of its inode's number, which
    could be that of one that was closed.
    """
    before = set()
    with ExitStack() as held:
        for number, target in _open_files():
            before.add(target)
            if target.endswith("(deleted)"):
                try:
                    held.callback(os.close, os.dup(number))
                except OSError:  # closed meanwhile
                    before.discard(target)

        def opened() -> list[str]:
            now = {target for _, target in _open_files()} - before
            return sorted(
                target
                for target in now
                if target.startswith(tempfile.gettempdir()) and ".sqlite" not in target
            )

        yield opened
