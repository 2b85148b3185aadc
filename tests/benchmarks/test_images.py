"""The images benchmark: it runs and compares inputs; durations are not tested."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from benchmarks.images import jpeg, longest_wait, photograph, preparations, run
from inference_server.images import decode_image


def test_the_photograph_has_its_size_and_compresses_like_one() -> None:
    pixels = photograph(1200, 1100)
    assert pixels.shape == (1100, 1200, 3)
    assert pixels.dtype == np.uint8
    data = jpeg(pixels)
    assert decode_image(data, max_pixels=pixels.size).shape == (1100, 1200, 3)
    assert 1.5 < len(data) * 8 / (1200 * 1100) < 6  # bits per pixel
    np.testing.assert_array_equal(pixels, photograph(1200, 1100))


@pytest.mark.parametrize("index", [0, 1])
def test_server_and_reference_prepare_the_same_input(index: int) -> None:
    preparation = preparations(128, 96)[index]
    text = base64.b64encode(jpeg(photograph(640, 480))).decode()
    expected = preparation.by_reference(text)
    side = preparation.side
    assert expected.shape == (3, side, side)
    for found, mean, most in (
        (preparation.in_full(text), 0.4, 1.01),
        (preparation.by_server(text), 0.8, 12),
    ):
        steps = preparation.steps(found, expected)
        assert float(steps["mean difference (of 255)"]) < mean
        assert float(steps["maximum difference (of 255)"]) < most


def test_waiting_is_measured() -> None:
    assert longest_wait(lambda: None, rounds=1) >= 0


def test_the_benchmark_runs() -> None:
    report = run(small=True)
    costs, differences, waits, masks = report.tables
    assert [row["decoded at"] for row in costs.rows] == ["1/1", "1/2", "1/4", "1/2", "1/4", "1/8"]
    assert len({row["image"] for row in costs.rows}) == 3
    assert all(float(row["mean difference (of 255)"]) < 0.8 for row in differences.rows)
    assert len(waits.rows) == 5
    for row in masks.rows:
        assert all(float(row[name]) > 0.99 for name in row if "reduced vs. full" in name)
        reduced = float(row["SAM 2: IoU with ground truth, reduced decoding"])
        whole = float(row["SAM 2: IoU with ground truth, full decoding"])
        assert reduced == pytest.approx(whole, abs=0.003)
    assert len(report.goals) == 2
    assert "power" in report.markdown()
