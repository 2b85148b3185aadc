"""How much is tried where requests and files are made up."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
"""`make fuzz` tries so many times as much, each time something else; tests always try the same."""


def fuzzed(examples: int) -> settings:
    """Settings for so many examples.

    Args:
        examples: in a run of the tests.
    """
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
