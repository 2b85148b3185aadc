"""The job repository, opened as several processes would, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from inference_server.database import Database
from inference_server.jobs import JobRepository
from inference_server.settings import Settings
from tests.databases import prepare
from tests.jobs.postgres import migrated_database

LEASE = 600.0
"""Longer than any test takes, so that leases expire only by `pass_time`."""

Opener = Callable[..., JobRepository]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        prepare(tmp_path / "data")
        yield ""
        return
    server = request.getfixturevalue("postgres_url")
    with migrated_database(server, f"store{time.monotonic_ns()}") as database:
        yield database


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Iterator[Opener]:
    """A function that opens the database once more, as another process would."""
    with ExitStack() as stack:

        def open_(**changes: Any) -> JobRepository:
            database = Database(tmp_path / "data", url)
            stack.callback(database.close)
            return JobRepository(database, Settings(**{"job_lease": LEASE, **changes}))

        yield open_


@pytest.fixture
def store(opened: Opener) -> JobRepository:
    return opened()
