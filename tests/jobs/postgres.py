"""A PostgreSQL server for the tests, started from the installed binaries."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.waiting import until


def binaries() -> Path | None:
    """Find the directory of `initdb` and `postgres`; the newest version if there are several."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return versions[0].parent if versions else None


def needed() -> Path:
    """Return the binaries; without them, skip the test, or fail it in CI."""
    found = binaries()
    if found is None:
        why = "PostgreSQL is not installed: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


def _user() -> str | None:
    """The user to run PostgreSQL as, because it refuses to run as root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Cluster:
    """A server that can be stopped and started.

    Args:
        where: directory of the binaries.
        directory: directory for its data.

    Attributes:
        url: URL of an empty database.
    """

    def __init__(self, where: Path, directory: Path) -> None:
        self._where = where
        self._directory = directory
        self._user = _user()
        self._told = False
        self._choose_port()
        if self._user is not None:
            shutil.chown(directory, self._user)
        subprocess.run(
            [
                *(str(where / "initdb"), "-D", str(directory / "data"), "-U", "tests"),
                *("--auth=trust", "--no-sync", "-E", "UTF8"),
            ],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=directory,
        )

    def _choose_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.url = f"postgresql://tests@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections.

        If another process took the port meanwhile, this chooses another port, or waits for the
        same one if the URL was already used.
        """
        for _ in range(20):
            if self._started():
                self._told = True
                return
            if self._told:
                time.sleep(1)
            else:
                self._choose_port()
        raise AssertionError("PostgreSQL does not start")

    def _started(self) -> bool:
        """Start the process; return False if it ended at once."""
        options = [
            *("-c", "listen_addresses=127.0.0.1"),
            *("-c", f"unix_socket_directories={self._directory}"),
            *("-p", str(self._port), "-c", "fsync=off", "-c", "max_connections=200"),
        ]
        self._server = subprocess.Popen(
            [self._where / "postgres", "-D", self._directory / "data", *options],
            user=self._user,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        check = [str(self._where / "pg_isready"), "-h", "127.0.0.1", "-p", str(self._port)]

        def decided() -> bool:
            if self._server.poll() is not None:
                return True
            return subprocess.run(check, capture_output=True).returncode == 0

        until(decided, pause=0.1)
        return self._server.poll() is None

    def stop(self) -> None:
        """Stop the server, which ends all connections."""
        self._server.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
        self._server.wait(60)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a server of its own."""
    where = needed()
    directory = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        made = Cluster(where, directory)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server, and yield the URL of an empty database."""
    with cluster() as made:
        yield made.url


@contextmanager
def migrated_database(url: str, name: str) -> Iterator[str]:
    """Create a database with all tables, and drop it afterwards.

    Args:
        url: URL of a database on the server.
        name: name of the new database.
    """
    with fresh_database(url, name, _migrated(url)) as made:
        yield made


@cache
def _migrated(url: str) -> str:
    """Create a database with all tables, and return its name; others are copies of it."""
    import psycopg

    from inference_server.database import Database

    name = "migrated"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    with tempfile.TemporaryDirectory() as directory:
        Database(Path(directory), url.rsplit("/", 1)[0] + f"/{name}").close()
    return name


@contextmanager
def fresh_database(url: str, name: str, template: str = "template1") -> Iterator[str]:
    """Create an empty database, or a copy of another one, and drop it afterwards.

    Args:
        url: URL of a database on the server.
        name: name of the new database.
        template: name of the database that is copied; the default one is empty.
    """
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'create database "{name}" template {template}')
        yield url.rsplit("/", 1)[0] + f"/{name}"

        def dropped() -> bool:
            # Forcing ends its connections, but gives them only five seconds.
            with suppress(psycopg.errors.ObjectInUse):
                connection.execute(f'drop database "{name}" with (force)')
                return True
            return False

        until(dropped)
