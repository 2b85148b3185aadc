"""A PostgreSQL of the tests' own, from the binaries that the distribution installs."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.http.serving import until


def binaries() -> Path | None:
    """Where `initdb` and `postgres` are, the newest first."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return versions[0].parent if versions else None


def needed() -> Path:
    """The binaries; without them tests are skipped, but fail where everything must be tested."""
    found = binaries()
    if found is None:
        why = "PostgreSQL is not installed: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


def _user() -> str | None:
    """Whom PostgreSQL runs as: it refuses to run as root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def postgres() -> Iterator[str]:
    """Runs a server, and yields the URL of an empty database."""
    where = needed()
    user = _user()
    directory = Path(tempfile.mkdtemp(prefix="pg"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    try:
        if user is not None:
            shutil.chown(directory, user)
        data = directory / "data"
        subprocess.run(
            [
                str(where / "initdb"),
                "-D",
                str(data),
                "-U",
                "tests",
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
            ],
            check=True,
            capture_output=True,
            user=user,
            cwd=directory,
        )
        options = [
            *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={directory}"),
            *("-p", str(port), "-c", "fsync=off", "-c", "max_connections=200"),
        ]
        server = subprocess.Popen(
            [where / "postgres", "-D", data, *options],
            user=user,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            check = [str(where / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
            until(lambda: subprocess.run(check, capture_output=True).returncode == 0, 60, 0.1)
            yield f"postgresql://tests@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def fresh_database(url: str, name: str) -> Iterator[str]:
    """An empty database of a server."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
        yield url.rsplit("/", 1)[0] + f"/{name}"
        connection.execute(f'drop database "{name}" with (force)')
