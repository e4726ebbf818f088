"""How much memory does a rank take, beside what it shares?"""

from __future__ import annotations

import socket
import statistics
import tempfile
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

import psutil

from contestant import Gated, elastic, other
from report import Report, Table, mib
from work.holding import pss

RANKS = 4


def measure(report: Report, runs: int) -> None:
    """Look at 4 ranks that have reduced a tensor and are still there."""
    del runs  # memory hardly differs from run to run
    rows = []
    for name in ("this plugin", "torch elastic_launch, spawn"):
        with Holding() as holding:
            session = (
                elastic(name, tests=2, env=holding.env, nproc=RANKS)
                if name == "this plugin"
                else other(name, "spawn_sum.py", tests=2, ranks=RANKS, env=holding.env)
            )
            with closing(session):
                seen = [holding.look(session, RANKS) for _ in range(2)][1]  # the server is up in the second test
        own = statistics.mean(seen.ranks)
        rows.append([name, mib(own), mib(max(seen.ranks)), mib((seen.busy - seen.idle) / RANKS), mib(seen.idle)])
    header = ["", "a rank (mean)", "a rank (most)", "session's growth / ranks", "session, idle"]
    report.add(
        Table(
            title=f"Memory of {RANKS} ranks that have reduced a tensor (PSS)",
            header=header,
            rows=rows,
            notes=["The growth has the agent in it, and the pages that a fork un-shares."],
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What one look found, in bytes.

    Attributes:
        idle: PSS of all processes of the session while no test runs.
        busy: The same while the ranks are held.
        ranks: PSS of each rank.
    """

    idle: int
    busy: int
    ranks: list[int]


class Holding:
    """A socket at which the ranks of a test wait while they are looked at (work/holding.py)."""

    def __init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(120)
        self._open = ExitStack()

    def __enter__(self) -> Holding:
        directory = self._open.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
        self._open.enter_context(self._listener)
        self._listener.bind(f"{directory}/hold")
        self._listener.listen(128)
        self.env = {"BENCH_HOLD": f"{directory}/hold"}
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def look(self, session: Gated, ranks: int) -> Seen:
        """Let one test of the session run, and look when all of its ranks are there."""
        idle = tree(session.process.pid)
        session.begin(1)
        with ExitStack() as held:
            lines = [held.enter_context(self._listener.accept()[0]) for _ in range(ranks)]
            busy = tree(session.process.pid)
            own = []
            for line in lines:
                line.sendall(b"?")
                own.append(int(line.recv(32)))
        session.end()
        return Seen(idle=idle, busy=busy, ranks=own)


def tree(pid: int) -> int:
    """Return the PSS of a process and of all its descendants."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended in between
            total += pss(process.pid)
    return total
