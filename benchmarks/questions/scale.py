"""How far does it go: 64 ranks that are all connected, 128 that are not?"""

from __future__ import annotations

import statistics
from contextlib import closing

from contestant import FLOOR, FLOOR_DESTROY, elastic, floor
from questions.memory import Holding
from questions.peers import steady
from report import Report, Table, compare, mib
from rounds import Round

MESH = "this plugin, 64 ranks"
ALONE = "this plugin, 128 ranks without a process group"


def measure(report: Report, runs: int) -> None:
    """Time both beside the floor, then look at the memory of the 64."""
    rounds = Round()
    rounds.enter(FLOOR, lambda: steady(floor(64), 1))
    rounds.enter(FLOOR_DESTROY, lambda: steady(floor(64, destroy=True), 1))
    rounds.enter(MESH, lambda: steady(elastic(MESH, tests=runs + 1, nproc=64), 1))
    rounds.enter(ALONE, lambda: steady(elastic(ALONE, tests=runs + 1, nproc=128, backend=None), 1))
    times = rounds.run(runs)
    report.raw["scale"] = times
    bases = [FLOOR, FLOOR_DESTROY]
    report.add(compare("Many ranks (seconds a test; the floor has 64)", times, bases=bases, notes=rounds.notes()))
    with Holding() as holding, closing(elastic(MESH, tests=2, env=holding.env, nproc=64)) as session:
        seen = [holding.look(session, 64) for _ in range(2)][1]
    report.add(
        Table(
            title="Memory of 64 ranks that have reduced a tensor (PSS of all processes of the session)",
            header=["session, idle", "with 64 ranks", "growth", "a rank (mean)"],
            rows=[[mib(seen.idle), mib(seen.busy), mib(seen.busy - seen.idle), mib(statistics.mean(seen.ranks))]],
        )
    )
