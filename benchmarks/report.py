"""What a benchmark found: tables, goals, and the machine, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from inference_server.bench.machine import machine

Cell = str | int | float


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be.

    Attributes:
        what: the figure, in words.
        value: as measured.
        bound: as asked.
        sense: whether the bound is the least or the most.
        unit: of both; `x` for a ratio.
    """

    what: str
    value: float
    bound: float
    sense: Literal["at least", "at most"]
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the figure is as it should be."""
        if self.sense == "at least":
            return self.value >= self.bound
        return self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of figures; all rows have the same columns.

    Attributes:
        title: what they are.
        rows: column names (with units) to cells.
    """

    title: str
    rows: Sequence[Mapping[str, Cell]]


@dataclass(slots=True)
class Report:
    """The result of a benchmark.

    Attributes:
        name: of the benchmark, as on the command line.
        title: what is measured.
        tables: the figures.
        goals: what they should be.
        notes: what a reader has to know, a sentence each.
        pictures: PNG files by their names, which are written beside the report.
    """

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def markdown(self) -> str:
        """The report as a section of Markdown."""
        lines = [f"## {self.title}", "", f"`python -m benchmarks {self.name}`", ""]
        for note in self.notes:
            lines += [note, ""]
        for table in self.tables:
            columns = list(table.rows[0])
            lines += [f"**{table.title}**", "", _line(columns), _line(["---"] * len(columns))]
            lines += [_line([_written(row[column]) for column in columns]) for row in table.rows]
            lines.append("")
        for picture in self.pictures:
            lines += [f"![{self.title}]({picture})", ""]
        if self.goals:
            lines += [_line(["figure", "measured", "goal", "met"]), _line(["---"] * 4)]
            for goal in self.goals:
                lines.append(
                    _line(
                        [
                            goal.what,
                            f"{_written(goal.value)} {goal.unit}".strip(),
                            f"{goal.sense} {_written(goal.bound)} {goal.unit}".strip(),
                            "yes" if goal.met else "**no**",
                        ]
                    )
                )
            lines.append("")
        return "\n".join(lines)

    def write(self, directory: Path) -> None:
        """Write `NAME.md` and `NAME.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{self.name}.md").write_text(self.markdown(), "utf-8")
        content: dict[str, Any] = {
            "machine": machine(),
            "measured": datetime.now(UTC).date().isoformat(),
            **asdict(self),
        }
        for picture, data in content.pop("pictures").items():
            (directory / picture).write_bytes(data)
        for entry, goal in zip(content["goals"], self.goals, strict=True):
            entry["met"] = goal.met
        text = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (directory / f"{self.name}.json").write_bytes(text)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _written(cell: Cell) -> str:
    """A cell as people read it: three digits that count."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell
