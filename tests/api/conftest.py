"""One server with keys in its database, for all tests of keys and tenants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference_server.auth import service as gate
from tests.api.stored_keys import Keyed, keyed


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server that looks for changes of its keys often."""
    directory = tmp_path_factory.mktemp("keys") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "_POLL_SECONDS", 0.05)
        with keyed(directory, fetch_networks="127.0.0.0/8") as found:
            yield found
