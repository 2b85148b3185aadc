"""One browser and one browser context for all tests of the pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.api.serving import RunningHere
from tests.chromium import chromium
from tests.playground.desk import TIMEOUT, Desk, at_desk, new_context


# Not session-scoped: Playwright's event loop in this thread would disturb tests of other packages.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    expect.set_options(timeout=TIMEOUT)
    with chromium() as running:
        yield running


@pytest.fixture(scope="package")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A desktop browser context; tests that share it leave no state but the HTTP cache."""
    with new_context(browser) as context:
        yield context


@pytest.fixture
def desk(context: BrowserContext, server: RunningHere) -> Iterator[Desk]:
    """The playground in a new tab, with an API key."""
    with at_desk(context, server.url) as desk:
        yield desk
        desk.check()


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening
