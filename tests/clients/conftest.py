"""What the TypeScript client is made and compiled with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from openapi import clients


@pytest.fixture(scope="session")
def npm() -> Path:
    """The TypeScript client's directory, with the packages that it takes."""
    if not (shutil.which("node") and shutil.which("npm")) and not os.environ.get("CI"):
        pytest.skip("Node and npm are not installed")
    clients.install_typescript()
    return clients.ROOT / clients.TYPESCRIPT
