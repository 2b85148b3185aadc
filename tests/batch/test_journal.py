"""The journal: entries survive a run, and only one process opens it at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference_server.batch.inputs import Source
from inference_server.batch.journal import DamagedJournalError, Entry, Journal, JournalError

ONE = Source(Path("/photos/1.jpg"), "1.jpg")
ODD = Source(Path(os.fsdecode(b"/photos/\xff.jpg")), os.fsdecode(b"\xff.jpg"))


def test_entries_are_kept_for_the_next_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "work")
    assert journal.search is None
    journal.begin({"--text": ["star"]})
    journal.expect([ONE, ODD])
    journal.finish(ODD, (7, 9), "abc", 3, b"part")
    journal.close()

    again = Journal(tmp_path / "work")
    assert again.search == {"--text": ["star"]}
    assert again.names() == {ONE.path: ONE.name, ODD.path: ODD.name}
    assert again.names(done=True) == {ODD.path: ODD.name}
    assert again.entry(ONE) is None
    assert list(again.parts(ONE)) == []
    assert again.entry(ODD) == Entry((7, 9), "abc", 3)
    assert list(again.parts(ODD)) == [b"part"]
    again.expect([ODD])  # already recorded
    assert again.entry(ODD) is not None
    again.touch(ODD, (7, 10))
    assert again.entry(ODD) == Entry((7, 10), "abc", 3)
    again.forget(ODD)
    assert again.entry(ODD) is None
    assert list(again.parts(ODD)) == []
    again.clear()
    assert again.search is None
    assert again.names() == {}
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "work")
    with pytest.raises(JournalError, match="Another run is using the journal"):
        Journal(tmp_path / "work")
    journal.close()
    Journal(tmp_path / "work").close()


def test_a_file_that_is_not_a_journal(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "journal.sqlite3").write_bytes(b"something else" * 100)
    with pytest.raises(DamagedJournalError, match="Use --force to start over"):
        Journal(folder)
    assert folder.exists()  # files of the user are never deleted
