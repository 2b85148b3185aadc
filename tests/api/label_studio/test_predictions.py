"""When a batch is answered by its first task alone."""

from __future__ import annotations

import pytest

from inference_server.api.label_studio.predictions import _Progress


@pytest.mark.parametrize(("now", "late"), [(2.0, False), (3.0, True)])
def test_the_rest_of_a_batch_is_foretold_from_its_first_tasks(now: float, late: bool) -> None:
    """100 tasks of which 4 took 3 seconds take 75 seconds."""
    progress = _Progress(tasks=100, workers=4, seconds=60, max_bytes=10, begin=0)
    # All 4 were in progress since the beginning, so the first ones tell too little.
    assert [progress.count(0, now) for _ in range(3)] == [False, False, False]
    assert progress.count(0, now) is late


def test_the_response_has_a_limit() -> None:
    progress = _Progress(tasks=3, workers=1, seconds=60, max_bytes=10, begin=0)
    assert not progress.count(10, 1)
    assert progress.count(1, 1)


def test_a_single_task_has_no_limit() -> None:
    progress = _Progress(tasks=1, workers=1, seconds=60, max_bytes=10, begin=0)
    assert not progress.count(1000, 1000)


def test_a_batch_that_is_complete_is_answered() -> None:
    progress = _Progress(tasks=2, workers=1, seconds=60, max_bytes=10, begin=0)
    assert not progress.count(0, 1)
    assert not progress.count(100, 1000)
