"""The ring of hashes by which Ray Serve's `ConsistentHashRouter` finds replicas, for whole arrays.

The router looks up one request at a time, in a cluster that runs. The same ring over arrays tells
within seconds what a thousand replicas would get; a test holds it against Ray's own.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Sequence
from typing import Any

import mmh3
import numpy as np
from numpy.typing import NDArray

SEED = 0xF9B4CA77
"""Ray's `CONSISTENT_HASH_SEED`."""
CIRCUMFERENCE = 2.0**64

Places = NDArray[np.int64]


def _hashes(keys: Iterable[str]) -> NDArray[np.uint64]:
    """As Ray hashes both virtual nodes and sessions: the lower 64 bits of MurmurHash3."""
    return np.array(
        [mmh3.hash64(key.encode(), seed=SEED, signed=False)[0] for key in keys], np.uint64
    )


def names(count: int, seed: int) -> list[str]:
    """Names for replicas: random ones, as the parts of Ray's that it hashes are."""
    drawn = random.Random(seed)
    return [
        "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8)) for _ in range(count)
    ]


def sessions(images: Iterable[int]) -> list[str]:
    """The sessions of images: digests of a tenant and the image's name."""
    return [hashlib.sha256(f"tenant\0image-{image}".encode()).hexdigest() for image in images]


class Ring:
    """Replicas on a ring.

    Args:
        replicas: their names.
        virtual_nodes: how many places on the ring each has.
    """

    def __init__(self, replicas: Sequence[str], virtual_nodes: int) -> None:
        hashes = _hashes(f"{name}:{node}" for name in replicas for node in range(virtual_nodes))
        owners = np.repeat(np.arange(len(replicas)), virtual_nodes)
        order = np.argsort(hashes, kind="stable")
        self._hashes: NDArray[np.uint64] = hashes[order]
        self._owners: Places = owners[order]
        self.size = len(replicas)

    def ranked(self, keys: Sequence[str], spill: int) -> Places:
        """The replicas of each key, its own first and then those that it may spill to.

        Args:
            keys: of sessions.
            spill: most further replicas.

        Returns:
            Indexes of replicas, [keys, 1 + spill]; fewer columns where there are fewer replicas.
        """
        count = len(self._hashes)
        at = np.searchsorted(self._hashes, _hashes(keys), side="right") % count
        ranks = [self._owners[at]]
        while len(ranks) < min(1 + spill, self.size):
            known = np.stack(ranks)
            while (again := (known == self._owners[at]).any(axis=0)).any():
                at = np.where(again, (at + 1) % count, at)
            ranks.append(self._owners[at])
        return np.stack(ranks, axis=1)

    def shares(self) -> NDArray[np.float64]:
        """How much of the ring each replica has, [replicas]; together 1."""
        arcs = np.diff(self._hashes, prepend=self._hashes[-1:])  # the first one wraps, as uint64
        return np.bincount(self._owners, arcs.astype(np.float64), self.size) / CIRCUMFERENCE


def moved(before: Ring, after: Ring, keys: Sequence[str]) -> tuple[float, float]:
    """What a replica that joins last, or a last one that goes, does to sessions.

    Args:
        before: without the replica.
        after: with it, at the end of the same replicas.
        keys: of sessions.

    Returns:
        (share of sessions whose replica is another one, share that moves between two others).
    """
    old, new = before.ranked(keys, 0)[:, 0], after.ranked(keys, 0)[:, 0]
    changed = old != new
    return float(changed.mean()), float((changed & (new != after.size - 1)).mean())


def rays_router(replicas: Sequence[str], virtual_nodes: int, spill: int) -> Any:
    """Ray's own router with its ring, without a cluster that it would route in.

    Args:
        replicas: their names.
        virtual_nodes: places of a replica on the ring.
        spill: further replicas for a session.
    """
    from ray.serve._private.common import DeploymentID, ReplicaID
    from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of every ring
    of = DeploymentID(name="visual")
    router = object.__new__(ConsistentHashRouter)  # its base wants an actor and an event loop
    router._deployment_id = of
    router.initialize_state(num_virtual_nodes=virtual_nodes, num_fallback_replicas=spill)
    router._rebuild_ring(frozenset(ReplicaID(name, deployment_id=of) for name in replicas))
    return router
