"""Is there a launch that stalls? And what does a second node cost?"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from contestant import Gated, elastic
from questions.peers import steady
from report import Report, Table, compare, seconds
from rounds import Round, Turn

LAUNCHES = 100
"""In each round."""
SIZES = (4, 8)
RENDEZVOUS = ("local", "static", "c10d")
ONE_NODE = "one node of 4 ranks"


def measure(report: Report, runs: int) -> None:
    """Launch at both sizes in turn, many times; then two nodes over each rendezvous."""
    _stalls(report, runs * LAUNCHES)
    _nodes(report, runs * 4)


def _stalls(report: Report, launches: int) -> None:
    rounds = Round()
    for ranks in SIZES:
        rounds.enter(f"{ranks} ranks", partial(_session, f"{ranks} ranks", launches, nproc=ranks))
    times = rounds.run(launches)
    report.raw["stalls"] = times
    rows = []
    for name, values in times.items():
        ordered = sorted(values)
        middle = statistics.median(ordered)
        slow = ordered[-1 - len(ordered) // 100]
        rows.append([name, seconds(middle), seconds(slow), seconds(ordered[-1]), f"{ordered[-1] / middle:.2f}"])
    header = ["", "median", "99 % are below", "slowest", "slowest / median"]
    title = f"{launches} tests of each size, one after the other"
    report.add(Table(title=title, header=header, rows=rows, notes=rounds.notes()))


def _nodes(report: Report, runs: int) -> None:
    rounds = Round()
    rounds.enter(ONE_NODE, partial(_session, ONE_NODE, runs, nproc=4))
    for rendezvous in RENDEZVOUS:
        name = f"two nodes of 2 ranks, {rendezvous}"
        rounds.enter(name, partial(_session, name, runs, nproc=2, nnodes=2, rdzv_backend=rendezvous))
    times = rounds.run(runs)
    report.raw["two nodes"] = times
    report.add(compare("A second node (seconds a test)", times, bases=[ONE_NODE], notes=rounds.notes()))


def _session(name: str, runs: int, **mark: Any) -> tuple[Gated, Turn]:
    return steady(elastic(name, tests=runs + 1, **mark), 1)
