"""What does ``--elastic-spawn=forkserver`` make of a suite that spawns, with the same outcomes?"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from contestant import ALONE, ELASTIC, ContestantError, environment
from report import Report, compare

SUITE = Path(__file__).parents[2] / "tests" / "integration" / "existing" / "multi_process.py"
CONTESTANTS = {"as they are": (), "--elastic-spawn=forkserver": ("--elastic-spawn=forkserver",)}
TESTS = 10
MOST_RUNS = 3  # a session of theirs takes more than a minute


def outcomes(report: Path) -> dict[str, tuple[str, str]]:
    """Return the outcome of each test, and the first line of what it says, without numbers of processes."""
    found = {}
    for case in ET.parse(report).iter("testcase"):
        child = case.find("*[@message]")
        outcome, message = ("passed", "") if child is None else (child.tag, child.get("message", ""))
        found[case.get("name", "")] = (outcome, re.sub(r"pid: \d+", "pid: N", message))
    return found


def session(directory: Path, *options: str) -> tuple[float, dict[str, tuple[str, str]]]:
    """Run the suite once; return the time of the whole session and the outcomes."""
    report = directory / "report.xml"
    command = [*ELASTIC, "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", *options]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=directory, env=environment(ALONE), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    found = outcomes(report)
    if done.returncode != 1 or len(found) != TESTS:  # some of its tests fail, as they should
        raise ContestantError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return seconds, found


def measure(report: Report, runs: int) -> None:
    """Run the suite's sessions in turn."""
    times: dict[str, list[float]] = {contestant: [] for contestant in CONTESTANTS}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "test_existing.py").write_text(SUITE.read_text())
        for _ in range(min(runs, MOST_RUNS)):
            found = {}
            for contestant, arguments in CONTESTANTS.items():
                taken, found[contestant] = session(directory, *arguments)
                times[contestant].append(taken)
            plain, forked = found.values()
            if plain != forked:
                differing = {test: (plain[test], forked[test]) for test in plain if plain[test] != forked[test]}
                raise ContestantError(f"outcomes differ: {differing}")
    report.raw["existing suite"] = times
    title = "Ten tests of torch's MultiProcessTestCase, 4 ranks each, the same outcomes (seconds a session)"
    report.add(compare(title, times, bases=list(CONTESTANTS)))
