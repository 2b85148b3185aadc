"""Numbers of examples of tests with generated input."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
"""Factor for `make fuzz`, which is randomised; in other runs the examples are always the same."""


def fuzzed(examples: int) -> settings:
    """Return Hypothesis settings for a number of examples.

    Args:
        examples: Number of examples in a normal run.
    """
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
