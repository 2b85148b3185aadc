"""Generates `benchmarks/README.md` from the stored results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

_HEAD = """# Benchmarks

The cost of serving, compared with the reference implementations in the same libraries: `sam2`'s
`SAM2ImagePredictor`, `transformers`' `Sam3Processor` and `Sam3Model`, `pycocotools` and `cv2` on
full planes. Each ratio compares two implementations that were timed alternately in one run on one
machine; milliseconds apply to that machine only. Weights are random, in the architectures'
published sizes, smoothed so that masks are blobs: the benchmarks measure speed, the tests check
masks.

```bash
make bench                            # all: an hour or more; writes results/ and this page
make bench ARGS="click boxes"         # some of them
make bench ARGS="--small"             # a minute, with the demo models; writes nothing
```
"""


def summary(results: Path, names: Iterable[str]) -> str:
    """Return the page: goals first, then one section per benchmark with results.

    Args:
        results: directory of `NAME.md` and `NAME.json`.
        names: names of the benchmarks, in the order of the page.
    """
    goals, sections, machines = [], [], []
    for name in (f"{name}{suffix}" for name in names for suffix in ("", "_bfloat16")):
        file = results / f"{name}.json"
        if not file.is_file():
            continue
        report: dict[str, Any] = orjson.loads(file.read_bytes())
        machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
        if machine not in machines:
            machines.append(machine)
        for goal in report["goals"]:
            unit = f" {goal['unit']}".rstrip()
            goals.append(
                f"| [{name}](#{_anchor(report['title'])}) | {goal['what']} | "
                f"{goal['value']:.3g}{unit} | {goal['sense']} {goal['bound']:g}{unit} | "
                f"{'yes' if goal['met'] else '**no**'} |"
            )
        section = (results / f"{name}.md").read_text("utf-8")
        sections.append(
            section.replace(f"![{report['title']}](", f"![{report['title']}]({results.name}/")
        )
    lines = [_HEAD, "Measured on:", "", *(f"* {machine}" for machine in machines), ""]
    lines += ["## Goals", "", "| benchmark | figure | measured | goal | met |"]
    lines += ["|---|---|---|---|---|", *goals, "", *sections]
    return "\n".join(lines)


def _anchor(title: str) -> str:
    """Return a heading's anchor, as code hosts generate it."""
    kept = (c for c in title.lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")
