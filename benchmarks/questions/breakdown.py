"""Where does the time of one test with fresh ranks go?"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from contestant import elastic
from report import Report, Table, seconds

PHASES = {
    "started": "pytest begins the test; the mark is read, the launch planned",
    "first rank": "the agent is forked and completes its rendezvous; the first rank is forked and reports",
    "last rank": "the other ranks are forked and report",
    "setup": "set-up on all ranks, the process group included",
    "call": "the test's body",
    "finished": "teardown on all ranks",
    "exited": "the ranks' processes end",
    "record": "the agent says how they did",
    "end": "pytest makes and logs its reports",
}


def measure(report: Report, runs: int) -> None:
    """Run tests of 4 and 8 ranks, and look at when each phase was over."""
    columns = [_medians(nproc, runs * 5) for nproc in (4, 8)]
    names = list(PHASES)
    rows = [[PHASES[name], *[seconds(column[name]) for column in columns]] for name in names]
    rows.append(["in all", *[seconds(sum(column.values())) for column in columns]])
    report.add(
        Table(title="Where the time of a test goes (median seconds)", header=["", "4 ranks", "8 ranks"], rows=rows)
    )


def _medians(nproc: int, tests: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        phases = Path(name, "phases")
        session = elastic("phases", tests=tests + 2, nproc=nproc, env={"BENCH_PHASES": str(phases)}, plugins=["phases"])
        try:
            for _ in range(tests + 2):
                session.turn()
        finally:
            session.close()
        times = [json.loads(line) for line in phases.read_text().splitlines()][2:]
    return {
        phase: statistics.median(max(0, each[phase] - each[before]) / 1e9 for each in times)
        for before, phase in zip(["begin", *PHASES], PHASES, strict=False)
    }
