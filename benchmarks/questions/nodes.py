"""How long do two nodes take to become one, and one to become two, and where does the time go?"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path

from contestant import ALONE, ELASTIC, environment, lay_work
from report import Report, Table, seconds

RUNS = 2


def measure(report: Report, runs: int) -> None:
    """Run the tests of work/elastic_nodes.py, which print what they measure."""
    del runs  # its waits are torch's settings, tens of seconds altogether
    with tempfile.TemporaryDirectory() as name:
        lay_work(Path(name), {})
        done = subprocess.run(
            [*ELASTIC, "-s", "-p", "no:cacheprovider", "elastic_nodes.py"],
            cwd=name,
            env=environment(ALONE | {"BENCH_TESTS": str(RUNS)}),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    title = "Two nodes of two ranks each, one of which is lost; one node that another joins"
    header = ["", "median", "least", "most"]
    if done.returncode != 0:
        notes = [f"Absent: it failed: {' '.join(done.stdout.split())[-300:]}"]
        report.add(Table(title=title, header=header, rows=[], notes=notes))
        return
    times: dict[str, list[float]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("MEASURED\t"):
            _, row, value = line.split("\t")
            times.setdefault(row, []).append(float(value))
    report.raw["nodes"] = times
    rows = [[row, *map(seconds, (statistics.median(v), min(v), max(v)))] for row, v in sorted(times.items())]
    report.add(Table(title=title, header=header, rows=rows))
