"""The environment of processes that tests start."""

from __future__ import annotations

import os


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of the server."""
    return {k: v for k, v in os.environ.items() if not k.startswith("INFERENCE_")}
