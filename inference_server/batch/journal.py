"""The journal: what a run has done, so that the next one goes on from there.

An SQLite database in a folder of its own beside the outputs. One process has it at a time; one that
is killed loses the image that it was at.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from inference_server.batch.inputs import Source

_FILE = "journal.sqlite3"
_LAYOUT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS run (layout INTEGER NOT NULL, search BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS image (
    path BLOB PRIMARY KEY,
    name BLOB NOT NULL UNIQUE,
    size INTEGER,
    changed INTEGER,
    digest TEXT,
    objects INTEGER,
    part BLOB
);
"""


class JournalError(Exception):
    """The journal cannot be used; the message says why and what to do."""


class DamagedJournalError(JournalError):
    """There is something in its place that is no journal, or none of this version."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that was done.

    Attributes:
        stamp: of the file when it was read, as `inputs.stamp` has it.
        digest: SHA-256 of the file.
        objects: how many were found.
    """

    stamp: tuple[int, int]
    digest: str
    objects: int


class Journal:
    """What was done of one output. Its methods may be called from any thread.

    Args:
        folder: its own; made where it is missing.

    Raises:
        JournalError: another process has it, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        # Each statement is a transaction of its own, and SQLite's threads take turns.
        self._database = sqlite3.connect(
            folder / _FILE, isolation_level=None, check_same_thread=False, timeout=0
        )
        try:
            with self._told():
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.executescript(f"BEGIN EXCLUSIVE; {_TABLES} COMMIT;")
                row = self._database.execute("SELECT layout FROM run").fetchone()
                if row is not None and row[0] != _LAYOUT:
                    raise DamagedJournalError(f"{folder} is of another version. {_ANEW}")
        except BaseException:
            self._database.close()
            if new:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise JournalError(
                    f"Another run is at work here: it has {self.folder}. Wait for it to end, or "
                    "choose another -o."
                ) from None
            raise JournalError(f"{self.folder} cannot be used: {error}.") from None
        except sqlite3.DatabaseError as error:
            raise DamagedJournalError(f"{self.folder} is damaged: {error}. {_ANEW}") from None

    @property
    def search(self) -> dict[str, Any] | None:
        """What was looked for, as `begin` was told; None in a new journal."""
        with self._told():
            row = self._database.execute("SELECT search FROM run").fetchone()
        return None if row is None else dict(orjson.loads(row[0]))

    def begin(self, search: Mapping[str, Any]) -> None:
        """Note what is looked for."""
        with self._told():
            self._database.execute("BEGIN")
            self._database.execute("DELETE FROM run")
            self._database.execute("INSERT INTO run VALUES (?, ?)", (_LAYOUT, orjson.dumps(search)))
            self._database.execute("COMMIT")

    def clear(self) -> None:
        """Forget everything, for a run that begins anew."""
        with self._told():
            self._database.executescript("BEGIN; DELETE FROM run; DELETE FROM image; COMMIT;")

    def names(self, *, done: bool = False) -> dict[Path, str]:
        """Names of the images that this or an earlier run was given, by their path.

        Args:
            done: of those alone that are done.
        """
        which = "WHERE digest IS NOT NULL" if done else ""
        with self._told():
            rows = self._database.execute(f"SELECT path, name FROM image {which}").fetchall()  # noqa: S608
        return {Path(os.fsdecode(path)): os.fsdecode(name) for path, name in rows}

    def expect(self, sources: Sequence[Source]) -> None:
        """Note images before they are begun: from now on their outputs are ours."""
        with self._told():
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT OR IGNORE INTO image (path, name) VALUES (?, ?)",
                [(os.fsencode(each.path), os.fsencode(each.name)) for each in sources],
            )
            self._database.execute("COMMIT")

    def finish(
        self, source: Source, stamp: tuple[int, int], digest: str, objects: int, part: bytes
    ) -> None:
        """Note that an image is done, its files written.

        Args:
            source: the image, that is expected.
            stamp: of the file when it was read.
            digest: of the file.
            objects: how many were found.
            part: of an output that holds several images.
        """
        with self._told():
            self._database.execute(
                "UPDATE image SET size = ?, changed = ?, digest = ?, objects = ?, part = ? "
                "WHERE path = ?",
                (*stamp, digest, objects, part, os.fsencode(source.path)),
            )

    def touch(self, source: Source, stamp: tuple[int, int]) -> None:
        """Note that a file was written anew with the same content."""
        with self._told():
            self._database.execute(
                "UPDATE image SET size = ?, changed = ? WHERE path = ?",
                (*stamp, os.fsencode(source.path)),
            )

    def forget(self, source: Source) -> None:
        """Note that an image is to be done again."""
        with self._told():
            self._database.execute(
                "UPDATE image SET digest = NULL, part = NULL WHERE path = ?",
                (os.fsencode(source.path),),
            )

    def entry(self, source: Source) -> Entry | None:
        """What is known of an image; None if it is not done."""
        with self._told():
            row = self._database.execute(
                "SELECT size, changed, digest, objects FROM image "
                "WHERE path = ? AND digest IS NOT NULL",
                (os.fsencode(source.path),),
            ).fetchone()
        return None if row is None else Entry((row[0], row[1]), row[2], row[3])

    def part(self, source: Source) -> bytes | None:
        """The part of an image that is done."""
        with self._told():
            row = self._database.execute(
                "SELECT part FROM image WHERE path = ? AND digest IS NOT NULL",
                (os.fsencode(source.path),),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def close(self) -> None:
        """Let others have it."""
        self._database.close()

    def remove(self) -> None:
        """Close it, and leave nothing of it behind."""
        self.close()
        shutil.rmtree(self.folder)


_ANEW = "--force begins anew."
