"""What does one test on 4 ranks cost in a fresh pytest, beside the mere collection of its file?"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from contestant import ALONE, ELASTIC, GLOO, environment, lay_work
from report import Report, compare

COLLECT = "pytest --collect-only"


def measure(report: Report, runs: int) -> None:
    """Run whole sessions in turn: the collection, the test without and with the memory of an earlier run."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lay_work(directory, {})
        rows: dict[str, Callable[[], float]] = {
            COLLECT: lambda: _session(directory, "--collect-only"),
            "the test, as pytest's cache never saw it": lambda: _session(directory, fresh=True),
            "the test, run before": lambda: _session(directory),
        }
        times: dict[str, list[float]] = {row: [] for row in rows}
        for number in range(runs + 1):
            for row, session in rows.items():
                seconds = session()
                if number > 0:  # the first round writes Python's caches, and fetches from the disk
                    times[row].append(seconds)
    report.raw["cold start"] = times
    report.add(compare("A fresh session with one test of 4 ranks (seconds a session)", times, bases=[COLLECT]))


def _session(directory: Path, *args: str, fresh: bool = False) -> float:
    if fresh:
        shutil.rmtree(directory / ".pytest_cache", ignore_errors=True)
    env = environment(ALONE | {"BENCH_MARK": json.dumps(GLOO | {"nproc": 4}), "BENCH_TESTS": "1"})
    begin = time.perf_counter()
    subprocess.run(
        [*ELASTIC, "elastic_sum.py", *args], cwd=directory, env=env, stdout=subprocess.DEVNULL, check=True, timeout=300
    )
    return time.perf_counter() - begin
