"""Fixtures for tests of deployment files."""

from __future__ import annotations

import pytest

from tests.api.serving import RunningHere


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening
