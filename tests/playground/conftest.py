"""One browser for all tests of the pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.http.serving import RunningHere
from tests.playground.desk import Desk, at_desk

_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


# For this package only: while it runs, this thread has an event loop that others' tests would mind.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        assert "CI" not in os.environ, "Chromium is missing"
        pytest.skip("Chromium is missing")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=_ARGUMENTS) as browser,
    ):
        yield browser


@pytest.fixture
def desk(browser: Browser, server: RunningHere) -> Iterator[Desk]:
    """The playground, with a key."""
    with at_desk(browser, server.url) as desk:
        yield desk
        desk.check()
