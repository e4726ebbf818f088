"""What does the plugin cost a session that does not use it?"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contestant import ALONE, PYTEST, environment
from report import Report, compare, seconds

WITHOUT, WITH = "-p no:elastic", "-p elastic"
PLAIN = """
import pytest

@pytest.mark.parametrize("number", range(20))
def test_plain(number):
    pass
"""


def measure(report: Report, runs: int) -> None:
    """Run sessions of 20 plain tests with and without the plugin."""
    rows: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    with tempfile.TemporaryDirectory() as name:
        Path(name, "test_plain.py").write_text(PLAIN)
        Path(name, "pytest.ini").write_text("[pytest]\n")
        for number in range(runs * 4 + 1):
            for row, times in rows.items():
                begin = time.perf_counter()
                subprocess.run(
                    [sys.executable, *PYTEST, "-p", "no:cacheprovider", *row.split()],
                    cwd=name,
                    env=environment(ALONE),
                    stdout=subprocess.DEVNULL,
                    check=True,
                    timeout=60,
                )
                if number > 0:
                    times.append(time.perf_counter() - begin)
    report.raw["plain sessions"] = rows
    difference = statistics.median(b - a for a, b in zip(rows[WITHOUT], rows[WITH], strict=True))
    notes = [f"Median difference of a pair: {seconds(difference)}."]
    report.add(compare("A session of 20 plain tests (seconds a session)", rows, bases=[WITHOUT], notes=notes))
