"""Does a session stay what it is, over 1, 10, 100 and 1,000 tests?"""

from __future__ import annotations

from contextlib import closing

import psutil

from contestant import Gated, elastic
from report import Report, Table, mib, seconds

POINTS = (1, 10, 100, 1000)
RANKS = 2
TESTS = 200
"""In each round: five of them make a thousand."""


def measure(report: Report, runs: int) -> None:
    """Run one long session, and look at it at each point while it waits at its gate."""
    points = [point for point in POINTS if point <= runs * TESTS]
    rows, done, total = [], 0, 0.0
    with closing(elastic("this plugin", tests=points[-1] + 1, nproc=RANKS)) as session:
        rows.append(["0", "", "", *_state(session)])
        for point in points:
            time = session.turn(point - done)
            total += time
            rows.append([str(point), seconds(time / (point - done)), seconds(total), *_state(session)])
            report.raw[f"session length/{point}"] = {"seconds a test since the point before": [time / (point - done)]}
            done = point
    of = ["descriptors", "threads", "RSS"]
    report.add(
        Table(
            title=f"One session of many tests, {RANKS} ranks each",
            header=[
                "tests so far",
                "seconds a test since the row above",
                "all tests",
                *[f"pytest's {word}" for word in of],
                *[f"its server's {word}" for word in of],
                "processes",
                "temporary files",
            ],
            rows=rows,
        )
    )


def _state(session: Gated) -> list[str]:
    root = psutil.Process(session.process.pid)
    family = root.children(recursive=True)
    # The server is the one that has torch and is there between tests: by far the largest.
    server = max(family, key=lambda process: process.memory_info().rss, default=root)
    cells = []
    for process in (root, server):
        cells += [str(process.num_fds()), str(process.num_threads()), mib(process.memory_info().rss)]
    files = sum(1 for _ in session.temporary.rglob("*"))
    return [*cells, str(1 + len(family)), str(files)]
