"""How does the cost of a test grow with its ranks?"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

from contestant import FLOOR, FLOOR_DESTROY, Gated, Warm, elastic, floor, other
from questions.peers import WARM_BATCH, steady, warm
from report import Report, Table, ratio, seconds
from rounds import Closes, Round, Turn

SIZES = (1, 2, 4, 8, 16, 32, 64)
OURS = "this plugin"
MODULE = "this plugin, isolation=module"
SPAWN = "torch elastic_launch, spawn"
LONGEST_SPAWN = 8.0
"""Seconds of a spawned launch beyond which larger sizes are left out: they take minutes, and say nothing new."""


def measure(report: Report, runs: int) -> None:
    """Compare at each size by itself."""
    raw: dict[str, dict[str, list[float]]] = {}
    notes: set[str] = set()
    spawn = True
    for ranks in SIZES:
        batch = 5 if ranks <= 8 else 1
        rounds = Round()
        for name, start in _contestants(ranks, runs, batch).items():
            rounds.enter(name, start)
        if spawn:
            rounds.enter(SPAWN, partial(_spawn, ranks, runs))
        times = rounds.run(runs)
        notes |= set(rounds.notes())
        spawn = SPAWN in times and max(times[SPAWN]) < LONGEST_SPAWN
        raw[str(ranks)] = times
    report.raw.update({f"sizes/{size}": times for size, times in raw.items()})
    report.add(_table(raw, sorted(notes)))


def _contestants(ranks: int, runs: int, batch: int) -> dict[str, Callable[[], tuple[Closes, Turn]]]:
    copies = [f"sum_{number:03}.py" for number in range(runs + 1)]
    stay = WARM_BATCH if batch > 1 else batch
    return {
        FLOOR: lambda: steady(floor(ranks), batch),
        FLOOR_DESTROY: lambda: steady(floor(ranks, destroy=True), batch),
        OURS: lambda: steady(elastic(OURS, tests=(runs + 1) * batch, nproc=ranks), batch),
        MODULE: lambda: warm(
            elastic(MODULE, tests=Warm.tests(stay), copies=copies, nproc=ranks, isolation="module"), stay
        ),
    }


def _spawn(ranks: int, runs: int) -> tuple[Gated, Turn]:
    return steady(other(SPAWN, "spawn_sum.py", tests=runs + 1, ranks=ranks), 1)


def _table(raw: dict[str, dict[str, list[float]]], notes: list[str]) -> Table:
    columns = list(dict.fromkeys(name for times in raw.values() for name in times))
    header = ["ranks", *columns, f"{OURS} x {FLOOR}", f"{OURS} x {FLOOR_DESTROY}"]
    rows = [
        [
            ranks,
            *[seconds(statistics.median(times[name])) if name in times else "" for name in columns],
            *[
                f"{ratio(times, OURS, base):.2f}" if {OURS, base} <= set(times) else ""
                for base in (FLOOR, FLOOR_DESTROY)
            ],
        ]
        for ranks, times in raw.items()
    ]
    return Table(title="The same test at other sizes (median seconds a test)", header=header, rows=rows, notes=notes)
