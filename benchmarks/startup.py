"""Start-up time and idle memory."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path

import orjson

from benchmarks.report import Cell, Report, Table
from benchmarks.requests import CONCEPT, SEGMENT, click_body, picture
from benchmarks.serving import ROOT, Server, our_server

_BARE = """
import time
begin = time.perf_counter()
import torch
from transformers import Sam3Model, Sam3Processor
import hydra
from omegaconf import OmegaConf
import sam2.modeling.sam2_base
imported = time.perf_counter()
from pathlib import Path
import json, sys
weights = Path(sys.argv[1])
pcs = Sam3Model.from_pretrained(weights / "sam3", dtype=torch.float32).eval()
processor = Sam3Processor.from_pretrained(weights / "sam3")
config = OmegaConf.load(weights / "sam2" / "config.yaml")
OmegaConf.resolve(config)
pvs = hydra.utils.instantiate(config.model, _recursive_=True).eval()
state = torch.load(weights / "sam2" / "model.pt", map_location="cpu", weights_only=True)
pvs.load_state_dict(state["model"], strict=True)
loaded = time.perf_counter()
status = Path("/proc/self/status").read_text()
resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
print(json.dumps({
    "import": imported - begin, "load": loaded - imported, "resident": resident,
    "modules": len(sys.modules),
}))
"""

_SHOWN = 15


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    from inference_server.demo import WEIGHTS

    rounds = 1 if small else 5
    starts, rests, answered = [], [], []
    bare: list[dict[str, float]] = []
    walls = []
    for _ in range(rounds):
        with our_server("demo") as server:
            starts.append(server.start)
            rests.append(server.resident / 1e6)
            answered.append(_after_requests(server))
        wall, found = _bare(WEIGHTS)
        walls.append(wall)
        bare.append(found)
    report = Report(
        "startup",
        "Start-up time and idle memory with the demo weights",
        notes=[
            f"Medians of {rounds} round(s), alternating. Server: from the start of its process "
            "until `/readyz` returns 200. Bare Python: a process that imports torch, transformers' "
            "SAM 3 and sam2, loads the same two checkpoints, and exits.",
        ],
    )
    ours: dict[str, Cell] = {
        "process": "server",
        "start (s)": statistics.median(starts),
        "resident (MB)": statistics.median(rests),
        "after a request of each kind (MB)": statistics.median(answered),
    }
    theirs: dict[str, Cell] = {
        "process": "bare Python",
        "start (s)": statistics.median(walls),
        "resident (MB)": statistics.median(found["resident"] / 1e6 for found in bare),
        "after a request of each kind (MB)": "",
    }
    report.tables.append(Table("Start-up time and memory", [ours, theirs]))
    halves = {name: statistics.median(f[name] for f in bare) for name in ("import", "load")}
    report.notes.append(
        f"Bare Python spends {halves['import']:.2f} s on imports and {halves['load']:.2f} s on "
        "loading."
    )
    report.tables.append(Table("Slowest imports of the server", slowest_imports()))
    return report


def _after_requests(server: Server) -> float:
    """Return the resident memory in MB after one click and one concept."""
    image = picture(1, (640, 480))
    concept = {"image": image.field, "prompts": [{"type": "text", "text": "red circle"}]}
    with server.client() as client:
        client.post(SEGMENT, click_body("hiera_tiny", image.at((0.5, 0.5)), image=image))
        client.post(CONCEPT, orjson.dumps(concept))
    return server.resident / 1e6


def _bare(weights: Path) -> tuple[float, dict[str, float]]:
    """Return the seconds of the whole process, and its own figures."""
    import time

    begin = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - a constant program
        [sys.executable, "-c", _BARE, str(weights)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    wall = time.perf_counter() - begin
    found: dict[str, float] = orjson.loads(done.stdout.splitlines()[-1])
    return wall, found


def slowest_imports() -> list[dict[str, Cell]]:
    """Return the server's slowest imports, in milliseconds with and without nested imports."""
    with our_server("demo", options=["-X", "importtime"]) as server:
        text = server.log.read_text("utf-8", "replace")
    pattern = r"import time:\s+(\d+) \|\s+(\d+) \| ( *)([\w.]+)"
    found = [(int(m[2]), int(m[1]), m[4]) for m in re.finditer(pattern, text)]
    found.sort(reverse=True)
    return [
        {"module": name, "cumulative (ms)": total / 1e3, "self (ms)": own / 1e3}
        for total, own, name in found[:_SHOWN]
    ]
