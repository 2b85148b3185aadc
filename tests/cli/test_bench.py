"""`inference-server bench`: its output and errors; measured durations are not checked."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import inference_server
from inference_server.cli import main
from inference_server.engines import arithmetic

QUICK = ("--image", "160x120", "--seconds", "0")
POINTS = ["click", "16 boxes", "clicks, 16 at once"]
WORK = ["encode", *POINTS, "encode", "concept"]


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *QUICK, *map(str, arguments)], catch_exceptions=False)


def test_a_table_and_a_plot(tmp_path: Path) -> None:
    options = ("--size", "hiera_tiny", "--dtype", "float32")
    result = bench("--plot", tmp_path / "bench.png", *options)
    assert result.exit_code == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if "/demo" in line]
    assert [row.split("/demo")[1].strip().split("  ")[0] for row in rows] in (
        WORK,
        [*WORK, *POINTS],
    )
    assert all("━" in row for row in rows)
    assert "160x120" in result.stdout
    with Image.open(tmp_path / "bench.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 5


def test_each_arithmetic_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "cpu_speed", lambda: arithmetic.Speed(1.0, 1.9))
    chosen = ["--json", "--only", "sam2", "--size", "hiera_tiny"]
    told = json.loads(bench(*chosen, "--dtype", "each").stdout)
    assert [figure["dtype"] for figure in told["figures"]] == ["float32"] * 4 + ["bfloat16"] * 4
    assert list(told["memory"]) == ["float32", "bfloat16"]
    for peaks in told["memory"].values():
        assert 100 < peaks["peak_resident_mb"] < 100_000
    assert "Peak memory in bfloat16: " in told["notes"][1]
    assert "say nothing about a real model" in told["notes"][-1]
    monkeypatch.setattr(arithmetic, "cpu_speed", lambda: arithmetic.Speed(1.0, 2.1))
    told = json.loads(bench(*chosen, "--dtype", "each").stdout)
    assert list(told["memory"]) == ["float32"]  # bfloat16 is emulated


@pytest.mark.parametrize(("setting", "option"), [("bfloat16", None), ("float32", "bfloat16")])
def test_a_chosen_arithmetic_is_measured_alone(
    monkeypatch: pytest.MonkeyPatch, setting: str, option: str | None
) -> None:
    monkeypatch.setenv("INFERENCE_DTYPE", setting)
    chosen = [] if option is None else ["--dtype", option]
    result = bench("--only", "sam2", "--size", "hiera_tiny", *chosen)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum("sam2/demo" in line for line in lines) == 4
    assert "; bfloat16" in " ".join(result.stdout.split())
    assert not any("float32" in line for line in lines)
    assert "With these settings the server computes in bfloat16." in result.stdout
    assert "nothing about a real model" in " ".join(result.stdout.split())


def test_json() -> None:
    result = bench("--json", "--only", "sam2", "--size", "hiera_tiny", "--dtype", "float32")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert [figure["name"] for figure in told["figures"]] == WORK[:4]
    for figure in told["figures"]:
        assert figure["model"] == "sam2/demo"
        assert figure["rounds"] >= 3
        assert 0 < figure["best_ms"] <= figure["median_ms"] <= figure["p90_ms"]
        assert math.isfinite(figure["per_second"])
    assert told["machine"]["image"] == "160x120"
    assert told["machine"]["device"]
    only = json.loads(bench("--json", "--only", "sam3", "--dtype", "float32").stdout)
    assert [figure["name"] for figure in only["figures"]][:2] == WORK[4:]


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ((), ["sam3/published"] * 5),
        (("--only", "sam3"), ["sam3/published"] * 5),
        (("--only", "sam2"), ["sam2/demo"] * 4),
        (("--size", "hiera_tiny"), ["sam2/demo"] * 4 + ["sam3/published"] * 5),
    ],
)
def test_a_sam3_with_a_visual_head(
    published_sam3: Path, options: tuple[str, ...], models: list[str]
) -> None:
    """Words and clicks are measured on one encoding, under the one model."""
    result = bench("--json", "--sam3-weights", published_sam3, "--dtype", "float32", *options)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)["figures"]
    assert [figure["model"] for figure in figures] == models
    names = [figure["name"] for figure in figures]
    assert names[-5:] == ["encode", "concept", *POINTS] or names == ["encode", *POINTS]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--image", "big"], "'big' is not a valid size. Use WIDTHxHEIGHT"),
        (["--image", "99999x99999"], "at most 50 megapixels"),
        (["--plot", "bench.txt"], "bench.txt must end in .png, .svg or .pdf"),
        (["--seconds", "-1"], "-1.0 is not in the range"),
        (["--only", "sam"], "'sam' is not one of"),
    ],
)
def test_invalid_options(options: list[str], told: str) -> None:
    result = bench(*options)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())


def test_a_plot_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error comes before anything is measured."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    result = bench("--plot", tmp_path / "bench.png")
    assert result.exit_code == 2
    assert "pip install '.[plot]'" in result.stderr


def test_missing_weights_are_an_error() -> None:
    result = bench("--sam2-weights", "/not/there")
    assert result.exit_code == 1
    assert "INFERENCE_SAM2_WEIGHTS=/not/there" in result.stderr


def test_the_package_imports_no_repository_only_code() -> None:
    """The package never imports `benchmarks`, `tests` and `training`."""
    root = Path(inference_server.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] not in ("benchmarks", "tests", "training"), path
