"""What processes that tests start are given of this process's environment."""

from __future__ import annotations

import os


def clean_environment() -> dict[str, str]:
    """This process's variables, without settings of the server."""
    return {k: v for k, v in os.environ.items() if not k.startswith("INFERENCE_")}
