"""One browser for all tests of the pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.chromium import chromium
from tests.http.serving import RunningHere
from tests.playground.desk import TIMEOUT, Desk, at_desk


# For this package only: while it runs, this thread has an event loop that others' tests would mind.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    expect.set_options(timeout=TIMEOUT)
    with chromium() as running:
        yield running


@pytest.fixture
def desk(browser: Browser, server: RunningHere) -> Iterator[Desk]:
    """The playground, with a key."""
    with at_desk(browser, server.url) as desk:
        yield desk
        desk.check()
