"""The database of jobs and API keys: connections and transactions on SQLite and PostgreSQL.

Packages declare their tables in `METADATA`. Opening the database creates or upgrades them.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import (
    Column,
    Connection,
    Double,
    Engine,
    MetaData,
    QueuePool,
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
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.sql.elements import ColumnElement

from inference_server import migrations, sqlite_file
from inference_server.clock import SteadyClock
from inference_server.settings import MiB, Settings

FILE = "jobs.sqlite"
"""Name of the SQLite file in the data directory."""

logger = logging.getLogger(__name__)

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

_READ = "inference_read"
_INCREMENTAL = 2

_CLOCK = "clock"
"""Name of the fact that holds the state of the clock that processes with an SQLite file share."""


@dataclass(frozen=True, slots=True)
class DatabaseTimeouts:
    """Timeouts of a database, in seconds.

    Attributes:
        lock: how long a transaction waits for another one's lock, and for a connection.
        statement: how long a statement may take (PostgreSQL).
        idle: how long a client may pause within a transaction (PostgreSQL). Less than `lock`, so
            that a client that froze within a transaction costs the others time, not an error.
    """

    lock: float = 15.0
    statement: float = 30.0
    idle: float = 10.0


DEFAULT_TIMEOUTS = DatabaseTimeouts()


class Database:
    """Connections to the database.

    An SQLite file that is removed or replaced while the process runs is noticed at the next
    transaction: it fails while the directory is missing, and otherwise uses the file that is there
    now, which is created if there is none.

    Args:
        directory: holds the SQLite file; created with access for its owner only.
        url: PostgreSQL URL, such as `postgresql://user@host/name`; empty uses SQLite.
        timeouts: how long to wait for locks, statements and clients.

    Attributes:
        is_sqlite: whether this is SQLite and not PostgreSQL.
        secret: 32 random bytes that are created with the database and never change.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot be opened.
        OSError: the directory cannot be created.
        RuntimeError: the database was written by a newer version of this package.
    """

    def __init__(
        self, directory: Path, url: str = "", timeouts: DatabaseTimeouts = DEFAULT_TIMEOUTS
    ) -> None:
        self.is_sqlite = not url
        self._patience = timeouts.lock
        self._clock = SteadyClock()
        self._file = directory / FILE
        self._identity: sqlite_file.Identity | None = None
        self._opening = threading.Lock()
        if self.is_sqlite:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._engine = _sqlite(self._file, timeouts)
        else:
            self._engine = _postgresql(url, timeouts)
        try:
            self._open()
        except BaseException:
            self._engine.dispose()
            raise

    @classmethod
    def of(cls, settings: Settings) -> Database:
        """Open the database that the settings name; see the class for what it raises."""
        timeouts = DatabaseTimeouts(
            settings.database_lock_timeout,
            settings.database_statement_timeout,
            settings.database_idle_timeout,
        )
        return cls(Path(settings.data_dir), settings.database_url, timeouts)

    @property
    def now(self) -> ColumnElement[float]:
        """The current time in seconds since 1970, from the clock that all processes share.

        That is the database server's for PostgreSQL. For SQLite it is this machine's, which does
        not jump when the system clock is set: leases and results must not expire by that.
        """
        if self.is_sqlite:
            return literal(self._clock.now(), Double)
        return func.extract("epoch", func.clock_timestamp()).cast(Double)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes; it commits at the end, or rolls back on an exception."""
        self._follow_file()
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a read-only transaction, which does not block writers."""
        self._follow_file()
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
        """Call a function, and retry it after a lost connection or a transient error.

        Once the attempts have taken as long as the lock timeout, there is no further one.

        Args:
            work: the function. It opens its own transaction, so that each call starts afresh.

        Returns:
            The function's result.
        """
        end = time.monotonic() + self._patience
        for pause in _PAUSES:
            try:
                return work()
            except DBAPIError as error:
                again = isinstance(error, OperationalError) or error.connection_invalidated
                if not again or time.monotonic() >= end:
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
        """Return the space of deleted rows to the file system, at most 16 MiB per call."""
        if self.is_sqlite:
            self._follow_file()
            with self._engine.connect() as connection:
                raw = connection.connection.dbapi_connection
                assert raw is not None  # noqa: S101 - it was just connected
                try:
                    # `execute` would free one page, as the statement has no rows to fetch.
                    raw.cursor().executescript("pragma incremental_vacuum(4096)")
                except sqlite3.Error as error:
                    raise OperationalError("compact the database", {}, error) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _open(self) -> None:
        """Create the SQLite file if there is none, and prepare the database."""
        identity = sqlite_file.create(self._file) if self.is_sqlite else None
        self.secret = self.retrying(self._prepare)
        self._identity = identity

    def _follow_file(self) -> None:
        """Open the SQLite file again if it was removed or replaced.

        Connections to the old file would go on working, on data that nobody else sees.

        Raises:
            sqlalchemy.exc.OperationalError: the file is missing and cannot be created.
        """
        if not self.is_sqlite or self._identity == self._current_identity():
            return
        with self._opening:
            if self._identity == self._current_identity():
                return
            logger.error("The database file %s was removed or replaced; opening it", self._file)
            self._engine.dispose()
            try:
                self._open()
            except (OSError, RuntimeError) as error:
                raise OperationalError("open the database", {}, error) from error

    def _current_identity(self) -> sqlite_file.Identity | None:
        try:
            return sqlite_file.identity(self._file)
        except OSError as error:
            raise OperationalError("find the database", {}, error) from error

    def _prepare(self) -> bytes:
        """Create or upgrade the tables, and return the secret.

        Processes that start together wait for each other: SQLite has one writer at a time,
        PostgreSQL an advisory lock.
        """
        with self._engine.begin() as connection:
            if not self.is_sqlite:
                # An upgrade may take longer than requests may wait.
                for name in ("lock_timeout", "statement_timeout"):
                    connection.execute(select(func.set_config(name, "0", True)))
                connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            migrations.upgrade(connection)
            if self.is_sqlite:
                known = fact(connection, _CLOCK) or ""
                self._clock = SteadyClock(known)
                if self._clock.state not in ("", known):
                    set_fact(connection, _CLOCK, self._clock.state)
            secret = fact(connection, "secret")
            if secret is None:
                secret = secrets.token_hex(32)
                facts = {"version": _VERSION, "secret": secret}
                new = [{"name": name, "value": value} for name, value in facts.items()]
                connection.execute(insert(FACTS), new)
        return bytes.fromhex(secret)


def fact(connection: Connection, name: str) -> str | None:
    """Return a fact of the database; None if it has none of this name."""
    query = select(FACTS.c.value).where(FACTS.c.name == name)
    value: str | None = connection.execute(query).scalar_one_or_none()
    return value


def set_fact(connection: Connection, name: str, value: str) -> None:
    """Set a fact of the database, in a transaction that writes."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    row = dialect.insert(FACTS).values(name=name, value=value)
    connection.execute(
        row.on_conflict_do_update(index_elements=[FACTS.c.name], set_={"value": value})
    )


def _sqlite(file: Path, timeouts: DatabaseTimeouts) -> Engine:
    """Make an engine for an SQLite file."""
    # Never created by a connection: a file without tables would look like the database.
    where = f"file:{quote(str(file.absolute()))}?mode=rw"
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(
            where, uri=True, timeout=timeouts.lock, check_same_thread=False
        ),
        poolclass=QueuePool,
        pool_size=4,
        max_overflow=8,
        pool_timeout=timeouts.lock,
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
        # By SQLAlchemy, which turns errors of the driver, such as a lock's, into its own.
        connection.exec_driver_sql("begin" if reads else "begin immediate")

    return engine


def _postgresql(url: str, timeouts: DatabaseTimeouts) -> Engine:
    """Make an engine for a PostgreSQL database."""
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=4,
        max_overflow=8,
        pool_timeout=timeouts.lock,
        # An unreachable server is noticed within seconds; the system's default is hours.
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )
    limits = {
        "lock_timeout": timeouts.lock,
        "statement_timeout": timeouts.statement,
        "idle_in_transaction_session_timeout": timeouts.idle,
    }

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: object) -> None:
        del record
        # Not by the option `options`, which poolers such as PgBouncer refuse.
        with connection.cursor() as cursor:
            for name, seconds in limits.items():
                milliseconds = str(max(1, round(seconds * 1000)))
                cursor.execute("select set_config(%s, %s, false)", (name, milliseconds))
        connection.commit()

    return engine


def in_short(error: SQLAlchemyError) -> str:
    """The driver's message, without the statement and its parameters, which may be an image."""
    return str(getattr(error, "orig", None) or type(error).__name__).strip()
