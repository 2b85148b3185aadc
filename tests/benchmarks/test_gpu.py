"""The benchmark of a GPU: its steps run on a CPU; durations are not tested."""

from __future__ import annotations

import math
from pathlib import Path

import orjson
import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu
from benchmarks.__main__ import main
from benchmarks.gpu import SMALL
from benchmarks.gpu_figures import HERE, PLAIN, WAYS, Figures


@pytest.mark.timeout(900)
def test_the_benchmark_runs_and_writes_its_results(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["gpu", "--device", "cpu", "--small", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    report = orjson.loads((tmp_path / "gpu.json").read_bytes())
    requests, loads = report["tables"]
    figures = {row["figure"]: row for row in requests["rows"]}
    names = ["click", "16 boxes", "new image, one click", "automatic 2 x 2"]
    names += [f"{model}encode {n}" for n in SMALL.batches for model in ("", "SAM 3: ")]
    names += ["SAM 3: 1 text", "SAM 3: 2 texts", "SAM 3: new image, one text"]
    assert figures.keys() == set(names)
    for name, row in figures.items():
        for way in WAYS:
            if way != PLAIN or name in ("click", "16 boxes"):
                assert math.isfinite(row[f"{way} (ms)"]), (name, way)
    assert [row["what"] for row in loads["rows"]] == [
        f"loading and warming, {PLAIN}",
        f"loading and warming, {HERE}",
        *(f"{number} clients, clicks per second" for number in SMALL.clients),
    ]
    goals = {goal["what"]: goal for goal in report["goals"]}
    assert len(goals) == 2, "goals in milliseconds are a GPU's"
    assert all(goal["value"] > 0.9 for goal in goals.values())
    assert any("No CUDA" in note for note in report["notes"])
    assert not [note for note in report["notes"] if note.startswith("Failed")]
    assert "Requests" in (tmp_path / "gpu.md").read_text()


def test_without_cuda_it_says_so_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(main, ["gpu", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "No CUDA device" in done.output
    assert "--device cpu --small" in done.output
    assert not list(tmp_path.iterdir())


def test_what_begins_after_the_budget_is_skipped_and_named() -> None:
    figures = Figures(SMALL, begin=-math.inf)
    figures.add_eager("click", HERE, lambda: pytest.fail("measured"))
    assert figures.skipped == [f"click ({HERE})"]
    assert figures.rows() == []


def test_a_failure_is_noted_and_the_rest_is_measured() -> None:
    figures = Figures(SMALL)

    def fails() -> None:
        raise RuntimeError("no kernel image is available\nmore")

    figures.add_eager("click", PLAIN, fails)
    figures.add_eager("click", HERE, lambda: None)
    assert figures.failures == [f"click ({PLAIN}): RuntimeError: no kernel image is available"]
    assert figures.timings["click"].keys() == {HERE}


def test_it_ends_in_eight_minutes() -> None:
    """No measurement but the slowest, of automatic masks, takes more than a few seconds."""
    assert gpu.FULL.budget + 60 <= 8 * 60
