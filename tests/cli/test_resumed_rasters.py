"""`inference-server segment` on a raster is stopped, and goes on at the window where it was."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inference_server.batch.search import Search
from tests.cli.test_segment import done, run
from tests.cli.test_segment_rasters import BY_WINDOWS, COLOURS, WINDOWS, ortho, world
from tests.readme import ROOT

__all__ = ["ortho", "world"]


class TestResumed:
    """A run that was stopped goes on at the window where it was."""

    STOP = 7

    @contextmanager
    def stopped(self, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
        """Start a run in a process of its own, and wait until it holds at a window."""
        command = [sys.executable, "-m", "tests.cli.gated", str(self.STOP)]
        process = subprocess.Popen(
            [*command, "segment", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"window\n", process.communicate()
            yield process
        finally:
            process.kill()
            process.communicate()

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
    def test_at_the_window(
        self, ortho: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
    ) -> None:
        arguments = (ortho, *COLOURS, *BY_WINDOWS, "--format", "geojson")
        done(*arguments, "-o", tmp_path / "whole.geojson")
        out = tmp_path / "out.geojson"
        with self.stopped(*arguments, "-o", out) as process:
            process.send_signal(how)
            _, told = process.communicate(b"xxxx")
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert b"Run the same command to resume" in told
        assert not out.exists()
        if how == signal.SIGKILL:
            other = Path(shutil.copytree(tmp_path, tmp_path.with_name("copy"))) / "out.geojson"
            form = ("--format", "geojson", "-o", other)
            refused = run(ortho, *BY_WINDOWS, "--text", "red", *form)
            assert refused.exit_code == 2
            assert "different command" in refused.stderr
            assert "resuming" not in done(*arguments, "--force", *form).stderr
        searched: list[object] = []
        everywhere = Search.everywhere

        async def counted(self: Search, *arguments: Any) -> Any:
            searched.append(arguments)
            return await everywhere(self, *arguments)

        monkeypatch.setattr(Search, "everywhere", counted)
        result = done(*arguments, "-o", out)
        kept = WINDOWS - len(searched)
        assert self.STOP <= kept <= self.STOP + 1  # one more may pass before the signal is seen
        assert f"ortho.tif: resuming at window {kept + 1} of {WINDOWS}." in result.stderr
        assert out.read_bytes() == (tmp_path / "whole.geojson").read_bytes()
