"""One Ray cluster for all tests marked `cluster`; each module deploys what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.auth.redis_server import Redis

if TYPE_CHECKING:
    from tests.cluster.servers import ClusterServer


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    running = Redis(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def bare(postgres_url: str, shared_redis: Redis) -> Iterator[ClusterServer]:
    """A cluster of three nodes with Serve; keys and jobs in PostgreSQL, rate limits in Redis."""
    from tests.cluster.servers import cluster_server

    with cluster_server(database_url=postgres_url, redis_url=shared_redis.url) as running:
        yield running


@pytest.fixture(scope="module")
def two(bare: ClusterServer) -> ClusterServer:
    """The cluster with two ingresses, two replicas of SAM 2 and one of SAM 3."""
    bare.deploy()
    bare.until_deployed(ingress=2, visual=2, concept=1)
    return bare
