"""Measure by ratio, everybody in turn: ``python benchmarks/run.py``.

What is compared waits side by side and takes its turns A B C A B C, so that a machine whose speed drifts is the same
for all; a ratio is the median of the rounds'. Nothing is compared with a time in seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import machine
import plot
from contestant import ContestantError
from questions import (
    breakdown,
    cold_start,
    collectives,
    existing,
    launches,
    memory,
    nodes,
    peers,
    plain_sessions,
    scale,
    session_length,
    sizes,
    stalls,
    verdict,
)
from report import Report, Table

QUESTIONS = {
    "peers": peers,
    "sizes": sizes,
    "breakdown": breakdown,
    "cold-start": cold_start,
    "verdict": verdict,
    "memory": memory,
    "session-length": session_length,
    "scale": scale,
    "stalls": stalls,
    "existing": existing,
    "launches": launches,
    "nodes": nodes,
    "collectives": collectives,
    "plain-sessions": plain_sessions,
}


def main() -> None:
    """Ask the questions that are wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"questions: {', '.join(QUESTIONS)}",
    )
    parser.add_argument("--only", metavar="A,B", help="some of the questions (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="rounds of each comparison (default 5)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write results.md, results.json and plot.png there")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(QUESTIONS)
    if unknown := set(wanted) - set(QUESTIONS):
        parser.error(f"--only: got {', '.join(sorted(unknown))}, expected some of {', '.join(QUESTIONS)}")
    if options.runs < 1:
        parser.error(f"--runs: got {options.runs}, expected an int >= 1")
    report = Report(machine=machine.describe())
    print(report.machine)
    unanswered = []
    for name in wanted:
        print(f"{name} ...", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            QUESTIONS[name].measure(report, options.runs)
        except (ContestantError, subprocess.SubprocessError, OSError) as error:
            unanswered.append(name)
            report.add(Table(title=name, header=[""], rows=[], notes=[f"Not answered: {error}"]))
        print(f"({name}: {time.monotonic() - begin:.0f} s)", flush=True)
        if options.output is not None:
            report.write(options.output)
    if options.output is not None:
        plot.draw(report, options.output / "plot.png")
    if unanswered:
        sys.exit(f"not answered: {', '.join(unanswered)}")


if __name__ == "__main__":
    main()
