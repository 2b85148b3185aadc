"""The system's Chromium, for tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Containers have little shared memory, and pages crash without it.
    "--disable-dev-shm-usage",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser. Meanwhile this thread has an event loop, which disturbs async tests."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        assert "CI" not in os.environ, "Chromium is missing"
        pytest.skip("Chromium is missing")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=path, args=_ARGUMENTS, timeout=120_000
        ) as browser,
    ):
        yield browser
