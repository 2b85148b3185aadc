"""Frames between ingresses and replicas, on connections that both sides have authenticated.

A frame is a header and a pickled payload. Pickle can run code, so nothing is unpickled before the
other side has proved that it knows the replica's key: the replica publishes the key through Ray
Serve, whose control store holds all other secrets as well. The connection is not encrypted, like
Ray's own.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import pickle
import secrets
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("!IQBII")
_NONCE = 32
_PROOF = 32

HANDSHAKE_SECONDS = 10.0
"""Seconds to authenticate a connection."""

_KEEP_ALIVE = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 11_000,
}
"""Keep-alive probes in seconds, their count, and the milliseconds in which sent bytes have to be
confirmed: a lost machine is noticed after 11 s."""


class Kind(IntEnum):
    """What a frame says. An ingress sends the first three, a replica the others."""

    ASK = 0
    CANCEL = 1
    ROOM = 2
    RESULT = 3
    ERROR = 4
    FREE = 5
    BUSY = 6
    LEAVING = 7
    LOST = 8
    LARGE = 9


@dataclass(frozen=True, slots=True)
class Frame:
    """A message on a connection.

    Attributes:
        number: number of the request that it belongs to, unique on the connection.
        kind: what it says.
        limit: for `ASK` and `ROOM`: requests in progress above which a replica is busy.
        waiting: for `ASK` and `ROOM`: requests that wait at the ingress for this replica.
        payload: pickled arguments or result; empty without any.
    """

    number: int
    kind: Kind
    limit: int = 0
    waiting: int = 0
    payload: bytes | bytearray = b""

    def value(self) -> Any:
        """Unpickle the payload."""
        return pickle.loads(self.payload)  # noqa: S301  # both sides are authenticated


def packed(value: Any) -> bytes:
    """Pickle a payload.

    Args:
        value: arguments or a result.
    """
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _proof(key: bytes, role: bytes, nonce: bytes) -> bytes:
    return hmac.digest(key, role + nonce, "sha256")


class Connection(asyncio.Protocol):
    """One side of a connection: authenticates the other side, then exchanges frames.

    The replica sends a nonce; the ingress returns a proof for it and its own nonce; the replica
    returns a proof for that one.

    Args:
        key: the replica's key.
        is_replica: whether this side is the replica.
        largest: maximum size of a payload in bytes; a longer one closes the connection before it
            is received.

    Attributes:
        authenticated: whether the other side has proved that it knows the key.
        written: set unless the other side reads more slowly than this one writes.
    """

    def __init__(self, key: bytes, *, is_replica: bool, largest: int) -> None:
        self._key = key
        self._is_replica = is_replica
        self._largest = largest
        self._nonce = secrets.token_bytes(_NONCE)
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.authenticated = False
        self.written = asyncio.Event()
        self.written.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to authenticate."""
        self._transport = cast("asyncio.Transport", transport)
        _tune(transport.get_extra_info("socket"))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HANDSHAKE_SECONDS, self.abort)
        if self._is_replica:
            self._transport.write(self._nonce)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        del exc
        self._stop_timer()
        self._transport = None
        self.written.set()

    def pause_writing(self) -> None:
        """Note that the other side does not keep up."""
        self.written.clear()

    def resume_writing(self) -> None:
        """Note that the other side has read most of what was sent."""
        self.written.set()

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete."""
        self._received += data
        if not self.authenticated and not self._authenticate():
            return
        while len(self._received) >= _HEADER.size:
            length, number, kind, limit, waiting = _HEADER.unpack_from(self._received)
            if length > self._largest:
                logger.error("A message of %d bytes exceeds INFERENCE_CLUSTER_MESSAGE_MB", length)
                self._received.clear()
                self.abort()
                return
            end = _HEADER.size + length
            if len(self._received) < end:
                return
            payload = self._received[_HEADER.size : end]
            del self._received[:end]
            self.on_frame(Frame(number, Kind(kind), limit, waiting, payload))

    def on_authenticated(self) -> None:
        """Called once both sides have proved that they know the key."""

    def on_frame(self, frame: Frame) -> None:
        """Handle a frame from the other side."""
        raise NotImplementedError

    def send(self, frame: Frame) -> None:
        """Send a frame; without a connection it is dropped."""
        if self._transport is None or self._transport.is_closing():
            return
        header = _HEADER.pack(
            len(frame.payload), frame.number, frame.kind, frame.limit, frame.waiting
        )
        if len(frame.payload) < 65536:
            self._transport.write(header + frame.payload)
        else:
            self._transport.write(header)
            self._transport.write(frame.payload)

    def close(self) -> None:
        """Close the connection after everything has been sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _authenticate(self) -> bool:
        """Take the next step of the handshake; return whether it is complete."""
        if self._transport is None:
            return False
        if self._is_replica:
            given = self._take(_PROOF + _NONCE)
            if given is None:
                return False
            if not hmac.compare_digest(given[:_PROOF], _proof(self._key, b"ingress", self._nonce)):
                self.abort()
                return False
            self._transport.write(_proof(self._key, b"replica", given[_PROOF:]))
        elif not self._sent_proof:
            nonce = self._take(_NONCE)
            if nonce is None:
                return False
            self._sent_proof = True
            self._transport.write(_proof(self._key, b"ingress", nonce) + self._nonce)
            return self._authenticate()
        else:
            proof = self._take(_PROOF)
            if proof is None:
                return False
            if not hmac.compare_digest(proof, _proof(self._key, b"replica", self._nonce)):
                self.abort()
                return False
        self._stop_timer()
        self.authenticated = True
        self.on_authenticated()
        return True

    def _take(self, size: int) -> bytes | None:
        """Remove the first bytes that were received; None if there are fewer."""
        if len(self._received) < size:
            return None
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    _sent_proof = False
    """For an ingress: whether it has answered the replica's nonce."""

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _tune(sock: Any) -> None:
    """Send small frames at once, and notice a lost machine."""
    if sock is None:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
