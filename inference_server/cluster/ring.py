"""The replicas of a deployment on a hash ring, as Ray Serve reports them to this process."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Sequence
from dataclasses import dataclass

from ray.serve.experimental.consistent_hash_router import _hash_bytes

from inference_server.cluster.listener import Address


@dataclass(frozen=True, slots=True)
class Member:
    """A running replica.

    Attributes:
        name: its unique id.
        address: where it listens.
        limit: maximum number of requests in progress.
    """

    name: str
    address: Address
    limit: int


@dataclass(frozen=True, slots=True)
class Ring:
    """A snapshot of a deployment's replicas, each with many positions on a ring of hashes.

    Attributes:
        members: the replicas by unique id.
        hashes: all positions in ascending order.
        owners: id of the replica at each position.
        spill: how many more replicas may serve an image whose own replica is busy.
    """

    members: dict[str, Member]
    hashes: Sequence[int]
    owners: Sequence[str]
    spill: int

    def ranked(self, session: str, without: Container[str] = frozenset()) -> list[Member]:
        """Return the replica that owns a session, and the next ones on the ring.

        Args:
            session: session id.
            without: replicas to ignore, as if they were not on the ring. Default: none.
        """
        start = bisect_right(self.hashes, _hash_bytes(session.encode()))
        found: dict[str, Member] = {}
        for offset in range(len(self.hashes)):
            name = self.owners[(start + offset) % len(self.owners)]
            if name in found or name in without:
                continue
            found[name] = self.members[name]
            if len(found) > self.spill:
                break
        return list(found.values())


_RINGS: dict[tuple[str, str], Ring | None] = {}
"""The last snapshots by application and deployment; Serve's router writes them in its thread."""


def ring_of(application: str, deployment: str) -> Ring | None:
    """Return the current replicas of a deployment.

    Args:
        application: name of the Serve application.
        deployment: name of the deployment.

    Returns:
        The ring; None if Serve has not reported any replica, if a replica has no listener, or if
        the deployment has another router. A call through Serve's handle works in all of these
        cases.
    """
    return _RINGS.get((application, deployment))


def publish(application: str, deployment: str, ring: Ring | None) -> None:
    """Set the current replicas of a deployment.

    Args:
        application: name of the Serve application.
        deployment: name of the deployment.
        ring: its replicas; None if they cannot be called directly.
    """
    _RINGS[application, deployment] = ring
