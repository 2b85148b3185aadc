"""The command that trains everything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import training.concept
import training.head
import training.joint
import training.sam1
import training.visual
from training.__main__ import main
from training.second_click import SecondClickTraining


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that were called, instead of training; SAM 2 fails at first."""
    calls: list[str] = []

    def recorded(name: str) -> Callable[..., None]:
        def call(out: Path, *_: Any, **options: Any) -> None:
            out.mkdir(parents=True, exist_ok=True)
            improved = " improved" if options.get("start_from") else ""
            seconds = options.get("kind") is SecondClickTraining
            calls.append("train second_click" if seconds else f"{name}{improved}")
            if calls.count("train visual") == 1 and name == "train visual":
                raise KeyboardInterrupt

        return call

    for module in (
        training.concept,
        training.head,
        training.joint,
        training.visual,
        training.sam1,
    ):
        for function in ("train", "export"):
            name = f"{function} {module.__name__.removeprefix('training.')}"
            monkeypatch.setattr(module, function, recorded(name))
    return calls


def test_one_command_trains_all_and_continues(tmp_path: Path, trained: list[str]) -> None:
    arguments = ["all", "--out", str(tmp_path)]
    stopped = CliRunner().invoke(main, arguments)
    assert stopped.exit_code == 1

    written = {
        "concept improved": "concept",
        "visual improved": "visual",
        "second_click": "head",
    }

    def calls(*names: str) -> list[str]:
        return [
            call
            for name in names
            for call in (f"train {name}", f"export {written.get(name, name)}")
        ]

    begun = calls("concept", "head", "concept improved", "joint", "second_click")
    assert trained == [*begun, "train visual"]
    trained[:] = ["train visual"]
    finished = CliRunner().invoke(main, arguments)
    assert finished.exit_code == 0, finished.output
    assert "stage 3 of 8: improved (done)" in finished.output
    assert trained[1:] == calls("visual", "visual improved", "sam1")
