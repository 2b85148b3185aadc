"""Opening, creating and upgrading the database, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import BaseModel
from sqlalchemy import Connection, create_engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from inference_server import migrations
from inference_server.auth import AuthService, KeyRepository, Usage
from inference_server.database import METADATA, Database, DatabaseTimeouts
from inference_server.jobs import Accepted, JobQueue, JobRepository, RequestKey, Submission
from inference_server.jobs.task import Task, TaskResult
from inference_server.segmentation.types import StoredImage
from inference_server.settings import Settings
from tests.jobs.postgres import fresh_database
from tests.jobs.submitting import content_of, task_context

PROCESSES = 3

SCHEMA_0_1_0 = """
create table inference_job_facts (
    name varchar(32) not null, value varchar(255) not null, primary key (name)
);
create table inference_keys (
    id varchar(12) not null, name varchar(64) not null, tenant varchar(48), salt {blob} not null,
    digest {blob} not null, scopes varchar(64) not null, rate varchar(64), credits bigint,
    created {double} not null, expires {double}, revoked {double}, primary key (id)
);
create table inference_key_usage (
    key_id varchar(32) not null, day varchar(10) not null, requests bigint not null,
    failures bigint not null, credits bigint not null, primary key (key_id, day)
);
create table inference_jobs (
    id varchar(32) not null, tenant varchar(64) not null, kind varchar(64) not null,
    status varchar(10) not null, token integer not null, attempts integer not null, due {double},
    owner varchar(32), created {double} not null, expires {double}, seconds {double},
    nbytes bigint not null, model text, error text, primary key (id)
);
create index inference_jobs_due on inference_jobs (due);
create index inference_jobs_expires on inference_jobs (expires);
create table inference_job_payloads (
    job_id varchar(32) not null, content {blob} not null, primary key (job_id)
);
create table inference_job_charges (
    job_id varchar(32) not null, key_id varchar(32) not null, credits bigint not null,
    day varchar(10) not null, primary key (job_id)
);
create table inference_job_files (
    job_id varchar(32) not null, position integer not null, name varchar(255) not null,
    media_type varchar(255) not null, nbytes bigint not null, content {blob} not null,
    primary key (job_id, position)
);
"""
"""The statements with which version 0.1.0 creates its tables."""

SECRET = "ab" * 32
KEY = f"inf_0123456789ab_{'k' * 43}"
TENANT = "key/0123456789ab"
QUEUED, FINISHED = "e" * 32, "f" * 32
EXPIRES = 4102444800.0
LINK = f"/v2/requests/{FINISHED}/files/preview.png?expires=4102444800"
SIGNATURE = "SCDyKgCgK5VB5RLHYOK6-6vQ94Qz4eiCnLwLWVjxhVY"
"""Signature of the link, made by 0.1.0 with the secret above."""

ROWS_0_1_0 = f"""
insert into inference_job_facts values ('version', '1'), ('secret', '{SECRET}'), ('keys', 'c0');
insert into inference_keys values (
    '0123456789ab', 'robot', null, {{salt}}, {{digest}}, 'segment,admin', null, 5, 1700000000,
    null, null
);
insert into inference_key_usage values ('0123456789ab', '2026-01-31', 7, 2, 12);
insert into inference_jobs values
    ('{QUEUED}', '{TENANT}', 'double', 'QUEUED', 0, 0, 1700000001, null, 1700000001, null, null, 13,
     null, null),
    ('{FINISHED}', '{TENANT}', 'double', 'COMPLETED', 1, 1, null, null, 1700000000, {EXPIRES}, 0.5,
     4, 'sam3/demo', null);
insert into inference_job_payloads values ('{QUEUED}', {{payload}});
insert into inference_job_charges values ('{QUEUED}', '0123456789ab', 2, '2026-01-31');
insert into inference_job_files values
    ('{FINISHED}', 0, 'preview.png', 'image/png', 4, {{png}});
"""
"""Rows that 0.1.0 writes for a key with two paid jobs: one queued, and one completed."""

CONTENTS = {
    "salt": bytes(range(16)),
    "digest": bytes.fromhex("6944d0432109d2e8731a0cfc015b7363ce97929ab13eb854fc801b00d3408c6b"),
    "payload": b'{"number": 7}',
    "png": b"\x89PNG",
}


class Number(BaseModel):
    number: int


async def double(context: Any, tenant: Any, body: Number, timings: Any) -> TaskResult:
    return TaskResult(None, lambda: {"double": 2 * body.number})


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an empty PostgreSQL database; empty for SQLite."""
    if request.param == "sqlite":
        yield ""
        return
    server = request.getfixturevalue("postgres_url")
    with fresh_database(server, f"database{time.monotonic_ns()}") as database:
        yield database


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


def execute(directory: Path, url: str, statements: str) -> None:
    """Execute statements without this package, as another version would."""
    if url:
        with psycopg.connect(url) as connection:
            connection.execute(statements.encode())
        return
    directory.mkdir(exist_ok=True)
    file = sqlite3.connect(directory / "jobs.sqlite")
    file.executescript(f"pragma auto_vacuum=incremental; pragma journal_mode=wal; {statements}")
    file.close()


def create_0_1_0(directory: Path, url: str, *, tables: slice = slice(None)) -> None:
    """Create a database of version 0.1.0; with only some tables, it has no rows."""
    blob, number = ("bytea", "double precision") if url else ("blob", "double")
    schema = SCHEMA_0_1_0.format(blob=blob, double=number)
    if tables != slice(None):
        execute(directory, url, ";".join(schema.split(";")[tables]))
        return
    quote = "'\\x{}'::bytea" if url else "x'{}'"
    values = {name: quote.format(content.hex()) for name, content in CONTENTS.items()}
    execute(directory, url, schema + ROWS_0_1_0.format(**values))


def assert_current(database: Database) -> None:
    """Assert that the tables are those of the models, at the latest revision."""
    with database.writing() as connection:
        options = {"version_table": migrations.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert context.get_current_revision() == migrations.LATEST
        assert compare_metadata(context, METADATA) == []


def test_there_is_one_head_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.LATEST]


def test_an_empty_database_is_created(directory: Path, url: str) -> None:
    database = Database(directory, url)
    assert_current(database)
    assert len(database.secret) == 32
    database.close()
    again = Database(directory, url)
    assert again.secret == database.secret
    assert_current(again)
    again.close()


def test_a_database_of_0_1_0_is_upgraded(directory: Path, url: str) -> None:
    """Keys, usage, jobs, results and links are kept and usable."""
    create_0_1_0(directory, url)
    database = Database(directory, url)
    assert_current(database)
    assert database.secret == bytes.fromhex(SECRET)
    keys = KeyRepository(database)
    (key,) = keys.all()
    assert (key.name, key.scopes) == ("robot", ("segment", "admin"))
    assert (key.credits, key.state) == (5, "active")
    assert keys.usage("2026-01-01") == [Usage("0123456789ab", "2026-01-31", 7, 2, 12)]
    database.close()

    async def serve() -> None:
        settings = Settings(data_dir=str(directory), database_url=url)
        context = task_context(settings)
        auth = AuthService(settings)
        jobs = JobQueue(settings, {"double": Task(Number, double, lambda body: [])})
        await auth.start()
        await jobs.start(context)
        try:
            tenant = auth.authenticate(KEY, "admin").tenant
            assert tenant.name == TENANT
            finished = await jobs.status(FINISHED, tenant)
            assert finished is not None
            assert (finished.state, finished.expires) == ("COMPLETED", EXPIRES)
            assert (finished.seconds, finished.facts.model) == (0.5, "sam3/demo")
            assert await content_of(jobs, FINISHED, "preview.png") == CONTENTS["png"]
            assert jobs.links.path(FINISHED, "preview.png", EXPIRES) == (
                f"{LINK}&signature={SIGNATURE}"
            )
            async with asyncio.timeout(60):
                while (queued := await jobs.status(QUEUED, tenant)) is None or (
                    queued.state in ("QUEUED", "PROCESSING")
                ):
                    await asyncio.sleep(0.02)
            assert queued.state == "COMPLETED"
            output = await content_of(jobs, QUEUED, "output.json")
            assert output is not None
            assert orjson.loads(output) == {"double": 14}
        finally:
            await jobs.stop()
            await auth.stop()

    asyncio.run(serve())


def test_jobs_of_revision_0002_are_upgraded(
    directory: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their images are kept, and a repetition does not undo what the first submission got."""
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "LATEST", "0002")
        Database(directory, url).close()
    quote = "'\\x{}'::bytea" if url else "x'{}'"
    content, payload = (quote.format(data.hex()) for data in (b"a picture", b"{}"))
    job, digest = "a" * 32, "d" * 64
    execute(
        directory,
        url,
        "insert into inference_jobs (id, tenant, kind, status, token, attempts, due, created, "
        "nbytes, turn, image, request_key, request_digest, submissions) values "
        f"('{job}', 'alice', 'kind', 'QUEUED', 0, 0, 1, 1, 2, 0, '{digest}', 'k', 'r', 1);"
        f"insert into inference_job_payloads values ('{job}', {payload});"
        f"insert into inference_job_images values ('alice', '{digest}', 1, 9, {content});",
    )
    database = Database(directory, url)
    assert_current(database)
    store = JobRepository(database, Settings())
    again = store.submit(Submission("alice", "kind", b"{}", key=RequestKey("k", "r")))
    assert again == Accepted(job, repeated=True)
    assert not store.undo(again.submission_id)
    claim = store.claim("me", ["kind"])
    assert claim is not None
    assert claim.image == StoredImage(b"a picture", digest)
    database.close()


def test_a_database_of_the_keys_command_of_0_1_0_is_completed(directory: Path, url: str) -> None:
    """It has tables of facts, keys and usage, but none of jobs."""
    create_0_1_0(directory, url, tables=slice(3))
    database = Database(directory, url)
    assert_current(database)
    database.close()


def test_0_1_0_can_use_the_database_of_this_version(directory: Path, url: str) -> None:
    """Its tables exist, and the facts `version` and `secret`."""
    database = Database(directory, url)
    with database.reading() as connection:
        facts = connection.execute(text("select name, value from inference_job_facts"))
        expected = {"version": "1", "secret": database.secret.hex()}
        assert expected.items() <= {row.name: row.value for row in facts}.items()
    database.close()


@pytest.mark.parametrize(
    ("statement", "revision"),
    [
        ("update inference_schema_version set version_num = '9999'", "9999"),
        # As 0.1.0 does, which knows no revisions.
        (
            "drop table inference_schema_version;"
            "update inference_job_facts set value = '99' where name = 'version'",
            "99",
        ),
    ],
)
def test_a_newer_database_is_refused_and_left_as_it_is(
    directory: Path, url: str, statement: str, revision: str
) -> None:
    Database(directory, url).close()
    execute(directory, url, f"{statement}; drop table inference_job_files;")
    with pytest.raises(RuntimeError) as caught:
        Database(directory, url)
    assert str(caught.value) == (
        f"The database was written by a newer inference-server (revision {revision}, this version "
        f"knows {migrations.LATEST}). Upgrade inference-server, or use another INFERENCE_DATA_DIR "
        "or INFERENCE_DATABASE_URL."
    )
    if not url:
        url = f"sqlite:///{directory / 'jobs.sqlite'}"
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    assert not inspect(engine).has_table("inference_job_files")
    engine.dispose()


def test_a_failed_upgrade_leaves_no_trace(
    directory: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade is one transaction, so the next start can repeat it."""
    create_0_1_0(directory, url, tables=slice(3))

    def fail(*_: object, **__: object) -> None:
        raise ValueError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", fail)
        with pytest.raises(ValueError, match="interrupted"):
            Database(directory, url)
    Database(directory, url).close()


def test_processes_that_start_together_upgrade_once(directory: Path, url: str) -> None:
    create_0_1_0(directory, url)
    code = (
        "import sys; from pathlib import Path; from inference_server.database import Database\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "database = Database(Path(sys.argv[1]), sys.argv[2]); print(database.secret.hex())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(directory), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        secrets = [process.communicate(timeout=60)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert secrets == [SECRET] * PROCESSES
    database = Database(directory, url)
    assert_current(database)
    database.close()


def test_threads_that_start_together_create_it_once(directory: Path, url: str) -> None:
    start = threading.Barrier(8)

    def open_(_: int) -> bytes:
        start.wait()
        database = Database(directory, url)
        database.close()
        return database.secret

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(open_, range(8)))) == 1


def test_alembic_is_imported_only_where_a_database_is_migrated() -> None:
    code = (
        "import sys, inference_server.cli, inference_server.jobs, inference_server.auth\n"
        "assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sqlite_is_durable_and_private(directory: Path) -> None:
    database = Database(directory)
    with database.writing() as connection:
        assert connection.execute(text("pragma journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("pragma synchronous")).scalar_one() == 2
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for file in directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    database.close()


def test_other_processes_see_that_sqlite_is_in_use(directory: Path) -> None:
    """The last one to close the database deletes its write-ahead log, so this one must keep its
    locks when it opens the database once more, as a server does for keys and for jobs."""
    keys = Database(directory)
    assert names(keys) == []
    jobs = Database(directory)
    log = directory / "jobs.sqlite-wal"
    inode = log.stat().st_ino
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1])\n"
        "connection.execute('select count(*) from inference_keys').fetchall()\n"
        "connection.close()\n"
    )
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", code, directory / "jobs.sqlite"], check=True)
        assert log.stat().st_ino == inode
        KeyRepository(jobs).create(name)
        assert names(keys)[-1] == name
    keys.close()
    jobs.close()


def test_a_connection_lost_in_the_middle_is_retried(directory: Path, postgres_url: str) -> None:
    with fresh_database(postgres_url, f"lost{time.monotonic_ns()}") as url:
        database = Database(directory, url)
        ended: list[int] = []

        def work() -> int:
            with database.writing() as connection:
                if not ended:
                    ended.append(connection.execute(text("select pg_backend_pid()")).scalar_one())
                    connection.execute(text(f"select pg_terminate_backend({ended[0]})"))
                return int(connection.execute(text("select 7")).scalar_one())

        assert database.retrying(work) == 7
        assert len(ended) == 1
        database.close()


def names(database: Database) -> list[str]:
    """The names of the keys in a database."""
    return [key.name for key in KeyRepository(database).all()]


def test_an_sqlite_file_that_is_removed_is_missed_until_it_is_back(directory: Path) -> None:
    """Connections that are open would otherwise go on with a file that nobody else sees."""
    database = Database(directory)
    secret = database.secret
    KeyRepository(database).create("first")
    away = directory.with_name("away")
    directory.rename(away)
    for _ in range(2):
        with pytest.raises(OperationalError), database.writing():
            pass
        with pytest.raises(OperationalError), database.reading():
            pass
    assert not directory.exists(), "an empty database would hide the one that is away"
    away.rename(directory)
    assert names(database) == ["first"]
    assert database.secret == secret
    database.close()


def test_an_sqlite_file_that_is_replaced_is_opened(directory: Path) -> None:
    database, other = Database(directory), Database(directory.with_name("other"))
    KeyRepository(database).create("old")
    KeyRepository(other).create("restored")
    other.close()
    shutil.rmtree(directory)
    directory.with_name("other").rename(directory)
    assert names(database) == ["restored"]
    assert database.secret == other.secret
    # One that is gone for good begins anew, as at a start.
    shutil.rmtree(directory)
    directory.mkdir()
    assert names(database) == []
    assert database.secret != other.secret
    KeyRepository(database).create("new")
    assert stat.S_IMODE((directory / "jobs.sqlite").stat().st_mode) == 0o600
    database.close()


def test_a_lock_on_sqlite_is_an_error_of_the_database_and_stops_no_reader(directory: Path) -> None:
    """Not of the driver, which nobody would expect, and after one timeout, not after six."""
    database = Database(directory, timeouts=DatabaseTimeouts(lock=0.05))
    keys = KeyRepository(database)
    attempts: list[int] = []

    def write(connection: Connection) -> None:
        attempts.append(1)

    with closing(sqlite3.connect(directory / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(OperationalError, match="locked"):
            database.write(write)
        with pytest.raises(OperationalError, match="locked"):
            database.compact()
        assert keys.all() == []
        other.execute("rollback")
    database.write(write)
    assert attempts == [1]
    database.close()


def test_there_is_no_attempt_after_the_lock_timeout(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(directory, timeouts=DatabaseTimeouts(lock=15))
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    calls: list[float] = []

    def locked() -> None:
        calls.append(clock.now)
        clock.now += 10
        raise OperationalError("begin immediate", {}, Exception("database is locked"))

    with pytest.raises(OperationalError):
        database.retrying(locked)
    assert calls == [0, 10]
    database.close()


def test_times_in_sqlite_do_not_jump_with_the_system_clock(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(directory)

    def now(database: Database) -> float:
        with database.reading() as connection:
            return connection.execute(select(database.now)).scalar_one()

    before = now(database)
    really = time.time()
    for jump in (-3600, 86400):
        monkeypatch.setattr(time, "time", lambda jump=jump: really + jump)
        other = Database(directory)
        assert 0 <= now(database) - before < 600
        assert 0 <= now(other) - before < 600
        other.close()
    database.close()


def test_a_server_that_freezes_in_a_transaction_holds_up_nobody_for_long(
    directory: Path, postgres_url: str
) -> None:
    with fresh_database(postgres_url, f"frozen{time.monotonic_ns()}") as url:
        frozen = Database(directory, url, DatabaseTimeouts(idle=0.1))
        other = Database(directory, url, DatabaseTimeouts(lock=60))

        def freeze() -> None:
            with frozen.writing() as connection:
                frozen.lock_submits(connection)
                # Nothing more comes from the first one, and its transaction is not over.
                other.write(other.lock_submits)
                connection.execute(select(1))

        with pytest.raises(DBAPIError) as caught:
            freeze()
        assert caught.value.connection_invalidated, "so it is retried"
        frozen.write(frozen.lock_submits)
        frozen.close()
        other.close()


def test_timeouts_of_postgresql(directory: Path, postgres_url: str) -> None:
    with fresh_database(postgres_url, f"timeouts{time.monotonic_ns()}") as url:
        settings = Settings(
            data_dir=str(directory),
            database_url=url,
            database_lock_timeout=0.05,
            database_statement_timeout=40,
        )
        database = Database.of(settings)
        with database.reading() as connection:
            shown = [
                connection.execute(text(f"show {name}")).scalar_one()
                for name in (
                    "lock_timeout",
                    "statement_timeout",
                    "idle_in_transaction_session_timeout",
                )
            ]
        assert shown == ["50ms", "40s", "10s"]
        other = Database(directory, url)
        with other.writing() as connection:
            other.lock_submits(connection)
            with pytest.raises(OperationalError, match="lock timeout"):
                database.write(database.lock_submits)
        other.close()
        database.close()
