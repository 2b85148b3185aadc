"""One listening socket for all ingresses of a machine.

The first ingress binds the port; each later one gets a duplicate of the socket from a process that
has it, through a Unix socket in a directory of this user. All of them accept connections from one
queue, so a killed or stopping ingress loses only what it has accepted. With SO_REUSEPORT each
process has its own queue, whose connections are reset with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BACKLOG = 2048
"""Connections that wait to be accepted."""

_OPEN_SECONDS = 30.0
"""Seconds to wait for a port that is bound, but not shared yet."""

_PAUSE = 0.1
_LONGEST = 100
"""Bytes in the path of a Unix socket; the kernel allows 107."""

_PEER_SECONDS = 2.0
"""Seconds to wait for another process to answer."""

_STAYING, _LEAVING = b"S", b"L"
"""Whether a process will keep the socket open."""


class SharedPort:
    """A process's share of a listening socket.

    Args:
        host: address to listen on.
        port: port to listen on.
        directory: directory for the Unix sockets. Default: one for this user, network namespace
            and address, in the directory for temporary files.
    """

    def __init__(self, host: str, port: int, *, directory: Path | None = None) -> None:
        self._address = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._state = _STAYING
        self._directory = directory or _directory(host, port)
        self._path = self._directory / f"{os.getpid()}-{id(self):x}"
        self._door: socket.socket | None = None
        self._claim: int | None = None

    def claim(self) -> None:
        """Reserve the address for the ingresses of one server until `close`.

        Two servers that start at the same time could both bind it, as neither listens yet, and
        each would pass requests to the other's ingresses.

        Raises:
            OSError: another server of this user has the address.
        """
        _make_private(self._directory)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if found := self._taken_over():
                found.close()
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        except OSError:
            os.close(directory)
            raise
        self._claim = directory

    def open(self, seconds: float = _OPEN_SECONDS) -> socket.socket:
        """Get the socket from another process, or bind the port, and share it.

        Args:
            seconds: how long to try. Default: 30.

        Returns:
            A listening socket that belongs to the caller.

        Raises:
            OSError: a process that does not share it uses the port, or the address is invalid.
        """
        _make_private(self._directory)
        end = time.monotonic() + seconds
        while True:
            try:
                listener = self._taken_over() or self._bound()
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self.share(listener)
        return listener

    def share(self, listener: socket.socket) -> None:
        """Give duplicates of a bound socket to other processes until `close`.

        A process that only shares the socket, and does not accept, keeps connections waiting while
        no ingress runs.

        Args:
            listener: the socket.
        """
        _make_private(self._directory)
        self._door = door = socket.socket(socket.AF_UNIX)
        # Other processes remove a socket that refuses connections, so it appears when it listens.
        hidden = self._path.with_name(f".{self._path.name}")
        with _short(hidden) as name:
            door.bind(name)
        door.listen()
        hidden.rename(self._path)
        own = listener.dup()
        threading.Thread(target=self._serve, args=(door, own), daemon=True).start()

    def leave(self) -> None:
        """Tell other processes that this one will close the socket; it still shares it."""
        self._state = _LEAVING

    def peers(self) -> int:
        """Return how many other processes will keep the socket open."""
        states = []
        for path in self._others():
            received, state = self._received(path)
            if received is not None:
                received.close()
                states.append(state)
        return states.count(_STAYING)

    def close(self) -> None:
        """Stop sharing, and give up the claim; the caller closes its own socket."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None
        door, self._door = self._door, None
        if door is None:
            return
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)  # ends `accept` in the thread

    def _taken_over(self) -> socket.socket | None:
        for path in self._others():
            received, _ = self._received(path)
            if received is not None:
                return received
        return None

    def _bound(self) -> socket.socket:
        bound = socket.socket(self._family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(self._address)
            bound.listen(BACKLOG)  # fails if another process listens
        except OSError:
            bound.close()
            raise
        return bound

    def _others(self) -> list[Path]:
        found = sorted(self._directory.iterdir())
        return [path for path in found if path != self._path and not path.name.startswith(".")]

    def _received(self, path: Path) -> tuple[socket.socket | None, bytes]:
        """Get the socket and state of a process; remove the Unix socket of one that has ended."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_PEER_SECONDS)
            try:
                with _short(path) as name:
                    asking.connect(name)
                state, descriptors, _, _ = socket.recv_fds(asking, 1, 1)
            except (ConnectionRefusedError, FileNotFoundError):
                path.unlink(missing_ok=True)
                return None, b""
            except OSError:
                return None, b""
        return (socket.socket(fileno=descriptors[0]) if descriptors else None), state

    def _serve(self, door: socket.socket, listener: socket.socket) -> None:
        with door, listener:
            while True:
                try:
                    asking, _ = door.accept()
                except OSError:
                    if self._door is not door:
                        return
                    time.sleep(_PAUSE)  # such as too many open files
                    continue
                with asking, suppress(OSError):
                    asking.settimeout(_PEER_SECONDS)
                    socket.send_fds(asking, [self._state], [listener.fileno()])


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Return a path of a Unix socket that is short enough, even if `TMPDIR` is long."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _directory(host: str, port: int) -> Path:
    try:
        network = os.stat("/proc/self/ns/net").st_ino
    except OSError:
        network = 0
    base = Path(tempfile.gettempdir()) / f"inference-server-{os.getuid()}"
    _make_private(base)
    return base / f"{network}-{host}-{port}"


def _make_private(directory: Path) -> None:
    """Create a directory that only this user can enter.

    Raises:
        PermissionError: another user made it, or may enter it.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.getuid()
        or stat.S_IMODE(found.st_mode) & 0o077
    ):
        raise PermissionError(f"{directory} must be a directory that only this user can enter")
