"""Files that name submissions to undo, so that they are undone after a restart."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_ID = re.compile(r"[0-9a-f]{32}")


class UndoMarks:
    """An empty file for each submission to undo. Every method blocks, so call it in a thread.

    Processes may share the directory: to undo a submission twice changes nothing.

    Args:
        directory: holds the files.
        parents: create the directory's parents too. Not for a directory beside an SQLite file: one
            that is away for a while must not be replaced by an empty one.
    """

    def __init__(self, directory: Path, *, parents: bool = False) -> None:
        self._directory = directory
        self._parents = parents

    def load(self) -> Sequence[str]:
        """Return the ids of all marked submissions.

        Raises:
            OSError: the directory cannot be read.
        """
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if _ID.fullmatch(name))

    def add(self, submission_ids: Iterable[str]) -> None:
        """Mark submissions.

        Raises:
            OSError: the files cannot be created.
        """
        self._directory.mkdir(mode=0o700, parents=self._parents, exist_ok=True)
        for name in submission_ids:
            os.close(os.open(self._directory / name, os.O_CREAT | os.O_WRONLY, 0o600))
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def remove(self, submission_id: str) -> None:
        """Remove a mark.

        Raises:
            OSError: the file cannot be removed.
        """
        (self._directory / submission_id).unlink(missing_ok=True)
