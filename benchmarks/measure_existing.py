"""Times a suite that spawns, as it is and with ``--elastic-spawn=forkserver``, and compares its outcomes; by run.py."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

SUITE = Path(__file__).parents[1] / "tests" / "integration" / "existing" / "multi_process.py"
CONTESTANTS = {"as they are": (), "--elastic-spawn=forkserver": ("--elastic-spawn=forkserver",)}
TESTS = 10


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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command += [f"--junitxml={report}", *options]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    found = outcomes(report)
    if done.returncode != 1 or len(found) != TESTS:  # some of its tests fail, as they should
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return seconds, found


def main() -> None:
    """Run the sessions in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="pairs of sessions (default 1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "test_existing.py").write_text(SUITE.read_text())
        for _ in range(options.runs):
            found = {}
            for contestant, arguments in CONTESTANTS.items():
                seconds, found[contestant] = session(directory, *arguments)
                print(f"MEASURED\t{contestant}\t{seconds}", flush=True)
            plain, forked = found.values()
            if plain != forked:
                differences = {name: (plain[name], forked[name]) for name in plain if plain[name] != forked[name]}
                sys.exit(f"outcomes differ: {differences}")


if __name__ == "__main__":
    main()
