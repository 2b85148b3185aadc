"""Reports: figures, goals and summary; timing and memory measurements."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks import timing
from benchmarks.report import Goal, Report, Table
from benchmarks.summary import summary
from benchmarks.timing import compare, exponent, peak_memory
from tests.api.serving import until


def report(name: str = "click", value: float = 2.5) -> Report:
    return Report(
        name,
        "A click, cached",
        [Table("Milliseconds", [{"size": "1080p", "ms": 12.345}, {"size": "4K", "ms": 1234.5}])],
        [Goal("faster", value, 2, "at least"), Goal("4K of 1080p", 1.4, 1.3, "at most")],
        ["It was a quiet machine."],
    )


def test_markdown_has_all_figures_and_marks_missed_goals() -> None:
    text = report().markdown()
    assert text.startswith("## A click, cached\n\n`python -m benchmarks click`\n")
    assert "| size | ms |\n| --- | --- |\n| 1080p | 12.3 |\n| 4K | 1,234 |" in text
    assert "| faster | 2.5 x | at least 2 x | yes |" in text
    assert "| 4K of 1080p | 1.4 x | at most 1.3 x | **no** |" in text
    assert "quiet machine" in text


def test_results_are_stored_and_summarised(tmp_path: Path) -> None:
    report("click").write(tmp_path)
    report("boxes", value=1.9).write(tmp_path)
    kept = orjson.loads((tmp_path / "click.json").read_bytes())
    assert [goal["met"] for goal in kept["goals"]] == [True, False]
    assert kept["machine"]["torch"]
    page = summary(tmp_path, ["boxes", "never run", "click"])
    assert page.index("[boxes](#a-click-cached)") < page.index("[click](#a-click-cached)")
    assert page.count("## A click, cached") == 2
    assert "| faster | 1.9 x | at least 2 x | **no** |" in page
    assert page.count("processor") == 1


@pytest.mark.parametrize(("power", "factor"), [(1.0, 3.0), (2.0, 0.1), (0.0, 5.0)])
def test_the_exponent_of_a_power_law_is_found(power: float, factor: float) -> None:
    sizes = [1.0, 4.0, 16.0]
    assert exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power)


def test_implementations_alternate() -> None:
    order: list[str] = []
    times = compare(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1
    )
    assert order == ["a", "b"] + ["a", "b"] * 3
    assert [len(timing.seconds) for timing in times.values()] == [3, 3]


def test_short_memory_peaks_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    resident = timing.resident

    def counted() -> int:
        nonlocal looks
        looks += 1
        return resident()

    def hold() -> None:
        block = np.ones(50 * 2**20, np.uint8)
        enough = looks + 2  # one sample may be in progress
        until(lambda: looks >= enough, pause=0.001)
        del block

    monkeypatch.setattr(timing, "resident", counted)

    assert 45 * 2**20 < peak_memory(hold) < 80 * 2**20
    assert peak_memory(lambda: time.sleep(0.01)) < 5 * 2**20
