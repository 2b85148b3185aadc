"""The class that Ray Serve makes in every process with a handle, to choose replicas.

Serve pickles this module by value, so state that others read has to be in another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import RunningReplica

from inference_server.cluster.listener import Address
from inference_server.cluster.ring import Member, Ring, publish


class ImageRouter(ConsistentHashRouter):
    """Serve's consistent hashing; it also publishes its replicas to this process.

    An ingress then calls replicas without Serve's handles, and without their probes: those pass
    over a replica that does not report its queue within 0.1 s, as happens on busy cores, and its
    images are encoded elsewhere.
    """

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Rebuild the ring, and publish it."""
        super().update_replicas(replicas)
        identity = self._deployment_id
        publish(identity.app_name, identity.name, self._snapshot(replicas))

    def _snapshot(self, replicas: Sequence[RunningReplica]) -> Ring | None:
        members: dict[str, Member] = {}
        for each in replicas:
            metadata: dict[str, Any] = each.replica_metadata
            address = Address.of(metadata)
            if address is None:  # of an earlier version, during an update
                return None
            name = each.replica_id.unique_id
            members[name] = Member(name, address, each.max_ongoing_requests)
        if not members:
            return None
        owners = [replica.unique_id for replica in self._ring_replicas]
        return Ring(members, self._ring_hashes, owners, self._num_fallback_replicas)
