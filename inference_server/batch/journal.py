"""The journal of a run: records finished images, so that the next run resumes it.

It is an SQLite database in its own folder next to the outputs, locked by one process at a time. If
that process is killed, only the images in progress are lost.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
CREATE TABLE IF NOT EXISTS chunk (
    path BLOB NOT NULL,
    number INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (path, number)
);
"""


class JournalError(Exception):
    """The journal cannot be opened or written; the message says why and what to do."""


class DamagedJournalError(JournalError):
    """The file is damaged, is not a journal, or was written by another version."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished image.

    Attributes:
        stamp: size in bytes and modification time in ns of the file when it was read.
        digest: SHA-256 of the file in hex.
        objects: number of objects found.
    """

    stamp: tuple[int, int]
    digest: str
    objects: int


class Journal:
    """Finished images of one output. Its methods are thread-safe.

    Args:
        folder: folder of the journal alone; created if it does not exist.

    Raises:
        JournalError: another process uses the journal, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        # In autocommit mode, and SQLite serialises statements of different threads.
        self._database = sqlite3.connect(
            folder / _FILE, isolation_level=None, check_same_thread=False, timeout=0
        )
        try:
            with self._errors():
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.executescript(f"BEGIN EXCLUSIVE; {_TABLES} COMMIT;")
                row = self._database.execute("SELECT layout FROM run").fetchone()
                if row is not None and row[0] != _LAYOUT:
                    raise DamagedJournalError(
                        f"The journal {folder} was written by another version. {_ADVICE}"
                    )
        except BaseException:
            self._database.close()
            if new:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise errors of SQLite as `JournalError`."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise JournalError(
                    f"Another run is using the journal {self.folder}. Wait for it to end, or "
                    "choose another -o."
                ) from None
            raise JournalError(f"Cannot use the journal {self.folder}: {error}.") from None
        except sqlite3.DatabaseError as error:
            raise DamagedJournalError(
                f"The journal {self.folder} is damaged: {error}. {_ADVICE}"
            ) from None

    @property
    def search(self) -> dict[str, Any] | None:
        """The description of the run, as passed to `begin`; None in a new journal."""
        with self._errors():
            row = self._database.execute("SELECT search FROM run").fetchone()
        return None if row is None else dict(orjson.loads(row[0]))

    def begin(self, search: Mapping[str, Any]) -> None:
        """Record the description of the run.

        Args:
            search: options that affect the results, as JSON values by name.
        """
        with self._errors():
            self._database.execute("BEGIN")
            self._database.execute("DELETE FROM run")
            self._database.execute("INSERT INTO run VALUES (?, ?)", (_LAYOUT, orjson.dumps(search)))
            self._database.execute("COMMIT")

    def clear(self) -> None:
        """Delete all entries and the description, to start over."""
        with self._errors():
            self._database.executescript(
                "BEGIN; DELETE FROM run; DELETE FROM image; DELETE FROM chunk; COMMIT;"
            )

    def names(self, *, done: bool = False) -> dict[Path, str]:
        """Return the output names of the images of this and earlier runs.

        Args:
            done: only finished images. Default: False.

        Returns:
            Names by absolute path.
        """
        which = "WHERE digest IS NOT NULL" if done else ""
        with self._errors():
            rows = self._database.execute(f"SELECT path, name FROM image {which}").fetchall()  # noqa: S608
        return {Path(os.fsdecode(path)): os.fsdecode(name) for path, name in rows}

    def expect(self, sources: Sequence[Source]) -> None:
        """Record images before they are processed, so that their outputs belong to this run.

        Args:
            sources: the images; those that are recorded already are ignored.
        """
        with self._errors():
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT OR IGNORE INTO image (path, name) VALUES (?, ?)",
                [(os.fsencode(each.path), os.fsencode(each.name)) for each in sources],
            )
            self._database.execute("COMMIT")

    def finish(
        self, source: Source, stamp: tuple[int, int], digest: str, objects: int, part: bytes
    ) -> None:
        """Record an image as finished, after its files are written.

        Args:
            source: the image, recorded before by `expect`.
            stamp: size in bytes and modification time in ns of the file when it was read.
            digest: SHA-256 of the file in hex.
            objects: number of objects found.
            part: the image's part of a document; empty without a document.
        """
        with self._errors():
            self._database.execute(
                "UPDATE image SET size = ?, changed = ?, digest = ?, objects = ?, part = ? "
                "WHERE path = ?",
                (*stamp, digest, objects, part, os.fsencode(source.path)),
            )

    def add_chunks(self, source: Source, chunks: Iterable[bytes]) -> None:
        """Store a raster's part of a document in several pieces, before it is finished.

        Args:
            source: the image.
            chunks: pieces, each a part by itself; those of an earlier attempt are replaced.
        """
        path = os.fsencode(source.path)
        with self._errors():
            self._database.execute("DELETE FROM chunk WHERE path = ?", (path,))
            for number, chunk in enumerate(chunks):
                self._database.execute("INSERT INTO chunk VALUES (?, ?, ?)", (path, number, chunk))

    def touch(self, source: Source, stamp: tuple[int, int]) -> None:
        """Update the stamp of a file that was rewritten with the same content.

        Args:
            source: the finished image.
            stamp: its new size in bytes and modification time in ns.
        """
        with self._errors():
            self._database.execute(
                "UPDATE image SET size = ?, changed = ? WHERE path = ?",
                (*stamp, os.fsencode(source.path)),
            )

    def forget(self, source: Source) -> None:
        """Mark an image as not finished, so that it is processed again."""
        with self._errors():
            self._database.execute(
                "UPDATE image SET digest = NULL, part = NULL WHERE path = ?",
                (os.fsencode(source.path),),
            )
            self._database.execute("DELETE FROM chunk WHERE path = ?", (os.fsencode(source.path),))

    def entry(self, source: Source) -> Entry | None:
        """Return the entry of an image; None if it is not finished."""
        with self._errors():
            row = self._database.execute(
                "SELECT size, changed, digest, objects FROM image "
                "WHERE path = ? AND digest IS NOT NULL",
                (os.fsencode(source.path),),
            ).fetchone()
        return None if row is None else Entry((row[0], row[1]), row[2], row[3])

    def parts(self, source: Source) -> Iterator[bytes]:
        """Return an image's part of the document, of a raster in pieces.

        Args:
            source: the image.

        Yields:
            The pieces; none if the image is not finished.
        """
        path = os.fsencode(source.path)
        with self._errors():
            row = self._database.execute(
                "SELECT part FROM image WHERE path = ? AND digest IS NOT NULL", (path,)
            ).fetchone()
        if row is None:
            return
        if row[0]:
            yield bytes(row[0])
        number = 0
        while True:
            with self._errors():
                row = self._database.execute(
                    "SELECT content FROM chunk WHERE path = ? AND number = ?", (path, number)
                ).fetchone()
            if row is None:
                return
            yield bytes(row[0])
            number += 1

    def close(self) -> None:
        """Close the database and release its lock."""
        self._database.close()

    def remove(self) -> None:
        """Close the journal and delete its folder."""
        self.close()
        shutil.rmtree(self.folder)


_ADVICE = "Use --force to start over."
