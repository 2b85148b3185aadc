"""The database of jobs and API keys: connections and transactions on SQLite and PostgreSQL.

Packages declare their tables in `METADATA`. Opening the database creates or upgrades them.
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

from inference_server import migrations
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
"""The fact that servers of 0.1.0 expect, so that both versions can share a database."""

_SCHEMA_LOCK, _SUBMIT_LOCK = 7_217_001, 7_217_002
"""Keys of PostgreSQL's advisory locks."""

_PAUSES = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Seconds to wait before each retry of a failed operation."""

_BUSY_SECONDS = 10.0
_READ = "inference_read"
_INCREMENTAL = 2


class Database:
    """Connections to the database.

    Args:
        directory: holds the SQLite file; created with access for its owner only.
        url: PostgreSQL URL, such as `postgresql://user@host/name`; empty uses SQLite.

    Attributes:
        is_sqlite: whether this is SQLite and not PostgreSQL.
        secret: 32 random bytes that are created with the database and never change.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot be opened.
        OSError: the directory cannot be created.
        RuntimeError: the database was written by a newer version of this package.
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
        """The current time in seconds since 1970, from the clock that all processes share.

        That is the database server's for PostgreSQL, and this machine's for SQLite.
        """
        if self.is_sqlite:
            return literal(time.time(), Double)
        return func.extract("epoch", func.clock_timestamp()).cast(Double)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes; it commits at the end, or rolls back on an exception."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a read-only transaction, which does not block writers."""
        with self._engine.connect().execution_options(**{_READ: True}) as connection:
            yield connection

    def lock_submits(self, connection: Connection) -> None:
        """Serialise submits until the end of the transaction, so that limits are exact.

        Args:
            connection: in a transaction that writes. SQLite allows only one of these anyway.
        """
        if not self.is_sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(_SUBMIT_LOCK)))

    def retrying(self, work: Callable[[], T]) -> T:
        """Call a function, and retry it after a lock timeout or a lost connection.

        Args:
            work: the function. It opens its own transaction, so that each call starts afresh.

        Returns:
            The function's result.
        """
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

    def write(self, work: Callable[[Connection], T]) -> T:
        """Call a function in a transaction that writes, with retries; see `retrying`.

        Args:
            work: the function; it gets the connection.

        Returns:
            The function's result.
        """

        def attempt() -> T:
            with self.writing() as connection:
                return work(connection)

        return self.retrying(attempt)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Call a function in a read-only transaction, with retries; see `retrying`.

        Args:
            work: the function; it gets the connection.

        Returns:
            The function's result.
        """

        def attempt() -> T:
            with self.reading() as connection:
                return work(connection)

        return self.retrying(attempt)

    def compact(self) -> None:
        """Return the space of deleted rows to the file system."""
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
        """Create or upgrade the tables, and return the secret.

        Processes that start together wait for each other: SQLite has one writer at a time,
        PostgreSQL an advisory lock.
        """
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            migrations.upgrade(connection)
            query = select(FACTS.c.value).where(FACTS.c.name == "secret")
            secret: str | None = connection.execute(query).scalar_one_or_none()
            if secret is None:
                secret = secrets.token_hex(32)
                facts = {"version": _VERSION, "secret": secret}
                new = [{"name": name, "value": value} for name, value in facts.items()]
                connection.execute(insert(FACTS), new)
        return bytes.fromhex(secret)


def _sqlite(file: Path) -> Engine:
    """Make an engine for an SQLite file."""
    # Created here because SQLite would create it with the permissions of the umask.
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(
        f"sqlite:///{file}", connect_args={"timeout": _BUSY_SECONDS}, pool_size=4, max_overflow=8
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: object) -> None:
        del record
        connection.isolation_level = None  # sqlite3 would begin transactions too late
        cursor = connection.cursor()
        if cursor.execute("pragma auto_vacuum").fetchone() != (_INCREMENTAL,):
            # Has an effect before the first table exists, and fails while another process writes.
            cursor.execute("pragma auto_vacuum=incremental")
        for pragma in (
            "journal_mode=wal",
            "synchronous=full",
            "secure_delete=on",  # clients' images do not linger in free pages
            f"journal_size_limit={64 * MiB}",
        ):
            cursor.execute(f"pragma {pragma}").fetchall()
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that turns from reading to writing fails where this one waits.
        reads = connection.get_execution_options().get(_READ)
        connection.connection.cursor().execute("begin" if reads else "begin immediate")

    return engine


def _postgresql(url: str) -> Engine:
    """Make an engine for a PostgreSQL database."""
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=4,
        max_overflow=8,
        pool_timeout=_BUSY_SECONDS,
        # An unreachable server is noticed within seconds; the system's default is hours.
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )


def in_short(error: SQLAlchemyError) -> str:
    """The driver's message, without the statement and its parameters, which may be an image."""
    return str(getattr(error, "orig", None) or type(error).__name__).strip()
