"""Tables of figures: on the terminal while the benchmark runs, and as Markdown and JSON at its end."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Times = Mapping[str, Sequence[float]]
"""Seconds of each round, by contestant. Values at one place belong to one round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table, its cells being text.

    Attributes:
        title: What was measured.
        header: Names of the columns; the first one's is empty.
        rows: The rows; the first cell is the name.
        notes: What must be said beside it, such as who is absent.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """Return the table as it stands in a Markdown document, aligned for a terminal too."""
        lines = [list(self.header), *map(list, self.rows)]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        table = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
        return "\n".join([f"### {self.title}", "", *table, *[f"\n{note}" for note in self.notes]]) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that a run of the benchmark found.

    Attributes:
        machine: Description of the machine.
        tables: The tables so far.
        raw: The seconds behind them, by question, for plots and later looks.
    """

    machine: str
    tables: list[Table] = field(default_factory=list)
    raw: dict[str, Times] = field(default_factory=dict)

    def add(self, table: Table) -> None:
        """Take a table in, and print it."""
        self.tables.append(table)
        print(f"\n{table.markdown()}", flush=True)

    def write(self, directory: Path) -> None:
        """Write ``results.md`` and ``results.json``."""
        directory.mkdir(parents=True, exist_ok=True)
        text = "\n".join([f"{self.machine}\n", *[table.markdown() for table in self.tables]])
        (directory / "results.md").write_text(text)
        (directory / "results.json").write_text(json.dumps({"machine": self.machine, "raw": self.raw}, indent=1))


def ratio(times: Times, name: str, base: str) -> float:
    """Return the median of the rounds' ratios: what slows a whole round is not in it."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def compare(title: str, times: Times, *, bases: Sequence[str], notes: Sequence[str] = ()) -> Table:
    """Return a table of medians, and of ratios to each of the bases that has been measured."""
    bases = [base for base in bases if base in times]
    rows = [
        [
            name,
            *[seconds(value) for value in (statistics.median(values), min(values), max(values))],
            *[f"{ratio(times, name, base):.2f}" for base in bases],
        ]
        for name, values in times.items()
    ]
    return Table(
        title=title, header=["", "median", "least", "most", *[f"x {base}" for base in bases]], rows=rows, notes=notes
    )


def seconds(value: float) -> str:
    """Return a duration with three digits."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"


def mib(value: float) -> str:
    """Return a number of bytes in MiB."""
    return f"{value / 2**20:.0f} MiB"
