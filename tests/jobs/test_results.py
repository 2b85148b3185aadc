"""Result files are read in pieces, on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from inference_server.database import Database
from inference_server.jobs import JobRepository, Output
from inference_server.jobs.results import ResultReader
from inference_server.jobs.task import ResultFile
from inference_server.settings import Settings
from tests.jobs.submitting import purged, submit
from tests.jobs.test_repository import KIND, claimed, pass_time

LARGE = ResultFile("overlay.png", "image/png", random.Random(3).randbytes(8_000_001))
EMPTY = ResultFile("empty.png", "image/png", b"")


@pytest.fixture
def database(url: str, tmp_path: Path) -> Database:
    return Database(tmp_path / "data", url)


@pytest.fixture
def store(database: Database) -> JobRepository:
    return JobRepository(database, Settings(job_lease=600, job_retention=600))


@pytest.fixture
def job_id(store: JobRepository) -> str:
    job_id = submit(store, "alice", KIND, b"{}")
    assert store.finish(claimed(store).lease, Output((LARGE, EMPTY), 0.1))
    return job_id


def test_a_file_is_the_sum_of_its_pieces(database: Database, job_id: str) -> None:
    reader = ResultReader(database)
    found = reader.find(job_id, LARGE.name)
    assert found is not None
    file, left, _ = found
    assert (file.name, file.media_type, file.nbytes) == (LARGE.name, "image/png", 8_000_001)
    assert left == pytest.approx(600, abs=60)
    size = 300_000
    pieces = [
        reader.piece(job_id, LARGE.name, offset, size) for offset in range(0, file.nbytes, size)
    ]
    assert b"".join(piece or b"" for piece in pieces) == LARGE.content
    assert reader.piece(job_id, LARGE.name, file.nbytes, size) == b""
    assert reader.piece(job_id, EMPTY.name, 0, size) == b""


def test_the_files_are_listed_in_their_order(
    database: Database, store: JobRepository, job_id: str
) -> None:
    reader = ResultReader(database)
    found = [(file.name, file.media_type, file.nbytes) for file in reader.files(job_id)]
    assert found == [(LARGE.name, "image/png", 8_000_001), (EMPTY.name, "image/png", 0)]
    assert reader.files("0" * 32) == []
    pass_time(store, 600)
    assert reader.files(job_id) == []


def test_only_the_requested_piece_is_read(database: Database, job_id: str) -> None:
    reader = ResultReader(database)
    reader.find(job_id, LARGE.name)  # connects
    tracemalloc.start()
    try:
        for offset in (0, 7_000_000):
            assert reader.piece(job_id, LARGE.name, offset, 1000)
        assert reader.find(job_id, LARGE.name)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_unknown_and_expired_files(database: Database, store: JobRepository, job_id: str) -> None:
    reader = ResultReader(database)
    assert reader.find(job_id, "other.png") is None
    assert reader.find("0" * 32, LARGE.name) is None
    assert reader.piece(job_id, "other.png", 0, 10) is None
    pass_time(store, 600)
    assert reader.find(job_id, LARGE.name) is None
    # A download in progress continues until the file is deleted.
    assert reader.piece(job_id, LARGE.name, 10, 10) == LARGE.content[10:20]
    purged(store)
    assert reader.piece(job_id, LARGE.name, 10, 10) is None
