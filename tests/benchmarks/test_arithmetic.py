"""The comparison of bfloat16 with float32: what counts as agreement, and the masks of the demo."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.arithmetic import Agreement, run
from inference_server.masks import Mask


def square(left: int, right: int) -> NDArray[np.bool_]:
    plane = np.zeros((10, 20), np.bool_)
    plane[2:8, left:right] = True
    return plane


def test_masks_without_a_counterpart_count_as_wrong() -> None:
    first, second = square(0, 8), square(10, 20)
    one, other = Mask.from_plane(first), Mask.from_plane(second)
    agreement = Agreement()
    agreement.add([[other, one], []], [[one, other], [one]], [[first], [first, second]])
    assert agreement.with_float32 == [1.0, 1.0, 0.0]
    assert (agreement.hits, agreement.masks, agreement.objects) == (1, 2, 3)
    assert agreement.with_truth == [1.0]
    assert agreement.f1 == pytest.approx(0.4)


def test_masks_of_the_demo_agree() -> None:
    report = run(small=True)
    goals = {goal.what: goal for goal in report.goals}
    assert len(goals) == 10
    for name, goal in goals.items():
        if "mean IoU" in name:
            assert goal.met, goal
    rows = report.tables[0].rows
    assert {row["demo"] for row in rows} == {"SAM 2", "SAM 3", "SAM 3's visual head"}
    assert all(row["lowest"] == "1.000" for row in rows if row["arithmetic"] == "float32")
