"""Server URLs for scripts that are configured by a URL only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.serving import ALICE, Running, RunningHere, serving


@pytest.fixture(scope="module")
def open_server() -> Iterator[Running]:
    """A server that requires no key."""
    with serving(auth="off", api_keys="") as running:
        yield running


@pytest.fixture(params=["INFERENCE_AUTH=off", "a key in the address"])
def url(request: pytest.FixtureRequest, server: Running) -> str:
    """The URL that a script gets."""
    if request.param == "INFERENCE_AUTH=off":
        running: Running = request.getfixturevalue("open_server")
        return running.url
    return server.url.replace("http://", f"http://x:{ALICE}@")


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening
