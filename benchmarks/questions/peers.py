"""What does a 4-rank gloo all-reduce cost as a test, under this plugin and under what else there is?"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import peers_environment
from contestant import FLOOR, FLOOR_DESTROY, Gated, Warm, elastic, floor, other
from report import Report, compare
from rounds import Round, Turn

RANKS = 4
BATCH = 5
WARM_BATCH = 25
"""Tests of a turn where ranks stay: they are short, and the first of a turn wakes processes that have slept."""
OURS = "this plugin"
MODULE = "this plugin, isolation=module"
CONTINUOUS = "torch MultiProcContinuousTest"
SESSIONS = {
    "torch elastic_launch, spawn": "spawn_sum.py",
    "torchrun": "torchrun_sum.py",
    "torch MultiProcessTestCase": "multiprocess_sum.py",
    "mpi-pytest": "mpi_sum.py",
    "torchrunx": "torchrunx_sum.py",
}


def measure(report: Report, runs: int) -> None:
    """Have all of them run the same test, in turn."""
    peers_environment.prepare()
    # What peers start must be found: mpiexec, for one.
    path = os.pathsep.join([str(peers_environment.PYTHON.parent), os.environ["PATH"]])
    peer = partial(other, ranks=RANKS, python=peers_environment.PYTHON, env={"PATH": path})
    copies = [f"sum_{number:03}.py" for number in range(runs + 1)]
    rounds = Round()
    rounds.enter(FLOOR, lambda: steady(floor(RANKS), BATCH))
    rounds.enter(FLOOR_DESTROY, lambda: steady(floor(RANKS, destroy=True), BATCH))
    rounds.enter(OURS, lambda: steady(elastic(OURS, tests=(runs + 1) * BATCH, nproc=RANKS), BATCH))
    tests = Warm.tests(WARM_BATCH)
    rounds.enter(
        MODULE, lambda: warm(elastic(MODULE, tests=tests, copies=copies, nproc=RANKS, isolation="module"), WARM_BATCH)
    )
    continuous = partial(peer, CONTINUOUS, "continuous_sum.py", tests=tests, copies=copies)
    rounds.enter(CONTINUOUS, lambda: warm(continuous(), WARM_BATCH))
    for name, file in SESSIONS.items():
        start: Callable[[], Gated] = partial(peer, name, file, tests=runs + 1)
        rounds.enter(name, partial(_one, start))
    times = rounds.run(runs)
    report.raw["peers"] = times
    title = f"A test of {RANKS} ranks that reduce one tensor over gloo (seconds a test)"
    report.add(compare(title, times, bases=[FLOOR, FLOOR_DESTROY, OURS], notes=rounds.notes()))


def steady(session: Gated, batch: int) -> tuple[Gated, Turn]:
    """Return a contestant each of whose tests costs the same, with its turns."""
    return session, lambda: {session.name: session.turn(batch) / batch}


def warm(session: Gated, batch: int) -> tuple[Gated, Turn]:
    """Return a contestant whose ranks stay for a file, with its turns."""
    contestant = Warm(session, batch=batch)

    def turn() -> dict[str, float]:
        once, each = contestant.turn()
        return {f"{session.name}: once a file": once, f"{session.name}: each further test": each}

    return session, turn


def _one(start: Callable[[], Gated]) -> tuple[Gated, Turn]:
    return steady(start(), 1)
