"""The listening socket that the ingresses of a machine share."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference_server.cluster.port import SharedPort

Make = Callable[[], SharedPort]


@pytest.fixture
def port() -> Iterator[int]:
    """A port that no other process is given."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def make(port: int, tmp_path: Path) -> Iterator[Make]:
    made: list[SharedPort] = []

    def shared() -> SharedPort:
        made.append(SharedPort("127.0.0.1", port, directory=tmp_path / "shared"))
        return made[-1]

    yield shared
    for each in made:
        each.close()


def test_connections_of_a_closed_ingress_reach_the_next_one(port: int, make: Make) -> None:
    """With SO_REUSEPORT they would be reset."""
    first, second = make(), make()
    old, new = first.open(), second.open()
    assert (first.peers(), second.peers()) == (1, 1)
    first.leave()
    assert (first.peers(), second.peers()) == (1, 0)
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        first.close()
        old.close()
        new.settimeout(10)
        accepted, _ = new.accept()
        with accepted, new:
            accepted.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_the_last_process_shares_until_it_closes(make: Make) -> None:
    first, second = make(), make()
    with first.open():
        first.leave()
        with second.open():
            assert (first.peers(), second.peers()) == (1, 0)


def test_a_holder_keeps_connections_while_no_ingress_runs(port: int, make: Make) -> None:
    holder = make()
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
        holder.share(held)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10)
        ingress = make()
        ingress.open().close()
        ingress.close()
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            with make().open() as next_one:
                next_one.settimeout(10)
                accepted, _ = next_one.accept()
            with accepted:
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"


def test_a_process_that_was_killed_is_forgotten(make: Make, tmp_path: Path) -> None:
    first = make()
    with first.open():
        stale = tmp_path / "shared" / "0-0"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(stale))
        assert first.peers() == 0
        assert not stale.exists()


def test_a_port_of_another_server_is_an_error(port: int, make: Make) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            make().open(0.0)


def test_other_users_cannot_offer_a_socket(make: Make, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="only this user"):
        make().open(0.0)


def test_two_servers_do_not_share_an_address(make: Make) -> None:
    """Both can bind it while no ingress listens yet."""
    first, second = make(), make()
    first.claim()
    with pytest.raises(OSError, match="unavailable"):
        second.claim()
    first.close()
    second.claim()


def test_an_address_with_an_ingress_is_not_free(make: Make) -> None:
    with make().open(), pytest.raises(OSError, match="in use"):
        make().claim()


def test_a_long_directory_for_temporary_files(port: int, tmp_path: Path) -> None:
    """A Unix socket's path has at most 107 bytes."""
    long = tmp_path / ("x" * 120)
    first = SharedPort("127.0.0.1", port, directory=long)
    second = SharedPort("127.0.0.1", port, directory=long)
    with first.open(0.0), second.open(0.0):
        assert (first.peers(), second.peers()) == (1, 1)
        first.close()
        second.close()


def test_an_ingress_that_is_starting_is_not_taken_for_a_dead_one(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between `bind` and `listen`, its socket refuses connections like that of a dead process."""
    first, second = make(), make()

    class Watched(socket.socket):
        def listen(self, *backlog: int) -> None:
            if self.family == socket.AF_UNIX:
                first.peers()
            super().listen(*backlog)

    with first.open():
        monkeypatch.setattr(socket, "socket", Watched)
        listener = second.open()
        monkeypatch.undo()
        with listener:
            assert first.peers() == 1


def test_a_failed_accept_does_not_end_the_sharing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as while the process has too many open files."""
    failures = [OSError(errno.EMFILE, "Too many open files")]

    class Failing(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            if self.family == socket.AF_UNIX and failures:
                raise failures.pop()
            return super().accept()

    monkeypatch.setattr(socket, "socket", Failing)
    first, second = make(), make()
    with first.open(), second.open(0.0):
        assert not failures
        assert (first.peers(), second.peers()) == (1, 1)


def test_the_ipv6_wildcard_includes_ipv4(port: int, tmp_path: Path) -> None:
    """As with one process."""
    shared = SharedPort("::", port, directory=tmp_path / "shared")
    try:
        listener = shared.open(0.0)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        pytest.skip("no IPv6")
    with listener, socket.create_connection(("127.0.0.1", port), 10):
        shared.close()
