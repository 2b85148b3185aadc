"""Keeps a Ray that is started for one machine on the loopback interface.

Ray binds all of its ports to the loopback interface if the address of its node is 127.0.0.1. On
Linux it replaces this address by an external one, and Serve's replicas ignore it. Neither has an
option, so two functions of Ray are replaced here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

ADDRESS = "127.0.0.1"


@contextmanager
def loopback_address() -> Iterator[None]:
    """Let `ray.init` keep the node address 127.0.0.1 while the block runs."""
    from ray._private import services

    original = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = original


def keep_serve_local() -> None:
    """In a replica of a Ray on the loopback interface, before Serve opens its port there."""
    if node_address() != ADDRESS:
        return
    from ray.serve._private import replica

    original: Callable[[object, str], int] = vars(replica)["add_port_to_grpc_server"]

    def local(server: object, address: str) -> int:
        return original(server, address.replace("[::]", ADDRESS))

    vars(replica)["add_port_to_grpc_server"] = local


def node_address() -> str:
    """Return the IP address of this process's Ray node."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address
