"""The server that tests of keys and tenants share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.stored_keys import Keyed, fast_polling, keyed


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server with keys in its database, which it reloads every 50 ms."""
    directory = tmp_path_factory.mktemp("keys") / "data"
    with pytest.MonkeyPatch.context() as patch:
        fast_polling(patch)
        with keyed(directory, fetch_networks="127.0.0.0/8") as found:
            yield found
