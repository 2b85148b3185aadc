"""Report of a benchmark: tables, goals and machine, as Markdown and JSON."""

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
    """Target for a figure.

    Attributes:
        what: description of the figure.
        value: measured value.
        bound: target value.
        sense: whether the bound is a minimum or a maximum.
        unit: unit of value and bound. Default: `x`, a ratio.
    """

    what: str
    value: float
    bound: float
    sense: Literal["at least", "at most"]
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the value meets the bound."""
        if self.sense == "at least":
            return self.value >= self.bound
        return self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of figures; all rows have the same columns.

    Attributes:
        title: title of the table.
        rows: cells by column name; names include units.
    """

    title: str
    rows: Sequence[Mapping[str, Cell]]


@dataclass(slots=True)
class Report:
    """Result of a benchmark.

    Attributes:
        name: name of the benchmark on the command line.
        title: heading of the report.
        tables: measured figures. Default: none.
        goals: targets for figures. Default: none.
        notes: paragraphs on method and limits. Default: none.
        pictures: PNG files by file name, written to the report's directory. Default: none.
        dtype: precision of the server, if it is an option of the benchmark. Default: "".
    """

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    dtype: str = ""

    @property
    def stem(self) -> str:
        """Name of the files; those in another precision than float32 have their own."""
        return self.name if self.dtype in ("", "float32") else f"{self.name}_{self.dtype}"

    def markdown(self) -> str:
        """Return the report as a Markdown section."""
        option = f" --dtype {self.dtype}" if self.dtype else ""
        lines = [f"## {self.title}", "", f"`python -m benchmarks {self.name}{option}`", ""]
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
        """Write `NAME.md`, `NAME.json` and the pictures.

        Args:
            directory: created if it does not exist.
        """
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{self.stem}.md").write_text(self.markdown(), "utf-8")
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
        (directory / f"{self.stem}.json").write_bytes(text)


def in_words(dtype: str) -> str:
    """Return the end of a title: nothing for float32, which most figures are in."""
    return "" if dtype == "float32" else f", in {dtype}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _written(cell: Cell) -> str:
    """Format a cell with three significant digits."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell
