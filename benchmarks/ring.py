"""The hash ring of Ray Serve's `ConsistentHashRouter`, vectorised.

Ray's router looks up one request at a time, in a running cluster. With arrays, a thousand replicas
take seconds. A test compares this ring with Ray's own.
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
    """Hash virtual nodes and sessions as Ray does: the lower 64 bits of MurmurHash3."""
    return np.array(
        [mmh3.hash64(key.encode(), seed=SEED, signed=False)[0] for key in keys], np.uint64
    )


def names(count: int, seed: int) -> list[str]:
    """Draw random replica names, like those that Ray hashes.

    Args:
        count: number of names.
        seed: seed of the random numbers.
    """
    drawn = random.Random(seed)
    return [
        "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8)) for _ in range(count)
    ]


def sessions(images: Iterable[int]) -> list[str]:
    """Return the session keys of images: digests of tenant and image id.

    Args:
        images: numbers of the images.
    """
    return [hashlib.sha256(f"tenant\0image-{image}".encode()).hexdigest() for image in images]


class Ring:
    """Replicas on a hash ring.

    Args:
        replicas: names of the replicas.
        virtual_nodes: virtual nodes per replica.
    """

    def __init__(self, replicas: Sequence[str], virtual_nodes: int) -> None:
        hashes = _hashes(f"{name}:{node}" for name in replicas for node in range(virtual_nodes))
        owners = np.repeat(np.arange(len(replicas)), virtual_nodes)
        order = np.argsort(hashes, kind="stable")
        self._hashes: NDArray[np.uint64] = hashes[order]
        self._owners: Places = owners[order]
        self.size = len(replicas)

    def ranked(self, keys: Sequence[str], spill: int) -> Places:
        """Return the replicas of each key: its own first, then those to spill to.

        Args:
            keys: session keys.
            spill: maximum number of additional replicas.

        Returns:
            Indices of replicas, [keys, 1 + spill]; fewer columns if there are fewer replicas.
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
        """Return the share of the ring of each replica, [replicas]; the sum is 1."""
        arcs = np.diff(
            self._hashes, prepend=self._hashes[-1:]
        )  # the first difference wraps around, as uint64
        return np.bincount(self._owners, arcs.astype(np.float64), self.size) / CIRCUMFERENCE


def moved(before: Ring, after: Ring, keys: Sequence[str]) -> tuple[float, float]:
    """Compare two rings that differ in one replica.

    Args:
        before: ring without the replica.
        after: ring with it, as the last of the same replicas.
        keys: session keys.

    Returns:
        Share of sessions whose replica changes, and share that moves between other replicas.
    """
    old, new = before.ranked(keys, 0)[:, 0], after.ranked(keys, 0)[:, 0]
    changed = old != new
    return float(changed.mean()), float((changed & (new != after.size - 1)).mean())


def rays_router(replicas: Sequence[str], virtual_nodes: int, spill: int) -> Any:
    """Build Ray's own router with its ring, without a cluster.

    Args:
        replicas: names of the replicas.
        virtual_nodes: virtual nodes per replica.
        spill: number of additional replicas per session.
    """
    from ray.serve._private.common import DeploymentID, ReplicaID
    from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # Ray logs every ring
    of = DeploymentID(name="visual")
    router = object.__new__(ConsistentHashRouter)  # its base class needs an actor and an event loop
    router._deployment_id = of
    router.initialize_state(num_virtual_nodes=virtual_nodes, num_fallback_replicas=spill)
    router._rebuild_ring(frozenset(ReplicaID(name, deployment_id=of) for name in replicas))
    return router
