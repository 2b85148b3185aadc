"""The database of jobs and keys: how SQLite and PostgreSQL are opened, and spoken to.

Each room has its own tables, registered in `METADATA`; they are made by whoever opens the database.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Double,
    Engine,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    literal,
    make_url,
    select,
)
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.sql.elements import ColumnElement

from inference_server.settings import MiB

T = TypeVar("T")

METADATA = MetaData()

FACTS = Table(
    "inference_job_facts",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("value", String(255), nullable=False),
)

_VERSION = "1"
_SCHEMA_LOCK, _SUBMIT_LOCK = 7_217_001, 7_217_002
_PAUSES = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Seconds before an operation is tried again."""

_BUSY_SECONDS = 10.0
_READ = "inference_read"
_INCREMENTAL = 2


class Database:
    """Connections to the database.

    Args:
        directory: for the SQLite file; made for its owner alone.
        url: of a PostgreSQL database, which is used instead.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot be opened.
        OSError: the directory cannot be made.
        RuntimeError: the tables are of another version of this server.
    """

    def __init__(self, directory: Path, url: str = "") -> None:
        self.is_sqlite = not url
        if self.is_sqlite:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._engine = _sqlite(directory / "jobs.sqlite")
        else:
            self._engine = _postgresql(url)
        try:
            self.secret = self.retrying(self._prepare)
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def now(self) -> ColumnElement[float]:
        """The time that all processes agree on, in seconds since 1970: the database's."""
        if self.is_sqlite:
            return literal(time.time(), Double)
        return func.extract("epoch", func.clock_timestamp()).cast(Double)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that changes something."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that does not hold up others."""
        with self._engine.connect().execution_options(**{_READ: True}) as connection:
            yield connection

    def lock_submits(self, connection: Connection) -> None:
        """Let one submit count and insert at a time; SQLite has one writer anyway."""
        if not self.is_sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(_SUBMIT_LOCK)))

    def retrying(self, work: Callable[[], T]) -> T:
        """Do something again that failed because of a lock or a lost connection."""
        for pause in _PAUSES:
            try:
                return work()
            except OperationalError:
                time.sleep(pause)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                time.sleep(pause)
        return work()

    def compact(self) -> None:
        """Give room that deleted rows left back to the file system."""
        if self.is_sqlite:
            with self._engine.connect() as connection:
                raw = connection.connection.dbapi_connection
                assert raw is not None  # noqa: S101 - it was just connected
                # `execute` would free one page, as the statement has no rows to fetch.
                raw.cursor().executescript("pragma incremental_vacuum(4096)")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _prepare(self) -> bytes:
        """Make the tables, once for all processes that start together; returns the secret."""
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            METADATA.create_all(connection)
            rows = connection.execute(select(FACTS.c.name, FACTS.c.value)).all()
            facts = {row.name: row.value for row in rows}
            if not facts:
                facts = {"version": _VERSION, "secret": secrets.token_hex(32)}
                new = [{"name": name, "value": value} for name, value in facts.items()]
                connection.execute(insert(FACTS), new)
        if facts["version"] != _VERSION:
            raise RuntimeError(
                f"The database's tables are of version {facts['version']}, and this server needs "
                f"version {_VERSION}: use another INFERENCE_DATA_DIR or INFERENCE_DATABASE_URL."
            )
        return bytes.fromhex(facts["secret"])


def _sqlite(file: Path) -> Engine:
    # Not readable by others for a moment either, whatever the umask is.
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(
        f"sqlite:///{file}", connect_args={"timeout": _BUSY_SECONDS}, pool_size=4, max_overflow=8
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: object) -> None:
        del record
        connection.isolation_level = None  # transactions begin below, not where sqlite3 thinks
        cursor = connection.cursor()
        if cursor.execute("pragma auto_vacuum").fetchone() != (_INCREMENTAL,):
            # Only of use before there is a table, and not possible while another writes.
            cursor.execute("pragma auto_vacuum=incremental")
        for pragma in (
            "journal_mode=wal",
            "synchronous=full",
            "secure_delete=on",  # images of clients do not linger in free pages
            f"journal_size_limit={64 * MiB}",
        ):
            cursor.execute(f"pragma {pragma}").fetchall()
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that only later wants to write would fail where this one waits.
        reads = connection.get_execution_options().get(_READ)
        connection.connection.cursor().execute("begin" if reads else "begin immediate")

    return engine


def _postgresql(url: str) -> Engine:
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=4,
        max_overflow=8,
        pool_timeout=_BUSY_SECONDS,
        # A server that is gone without a goodbye is noticed within a lease, not within hours.
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )


def in_short(error: SQLAlchemyError) -> str:
    """The driver's own words, without the statement and its parameters, which may be an image."""
    return str(getattr(error, "orig", None) or type(error).__name__).strip()
