"""The environment of processes that tests start."""

from __future__ import annotations

import os


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of the server.

    But the arithmetic is set, because `auto` depends on the machine.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith("INFERENCE_")}
    return own | {"INFERENCE_DTYPE": "float32"}
