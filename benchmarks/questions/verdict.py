"""How long after a rank's failure is the verdict there, the others being in a collective?"""

from __future__ import annotations

import tempfile
from pathlib import Path

from contestant import Gated, elastic, other
from questions.peers import steady
from report import Report, compare
from rounds import Round, Turn

OURS = "this plugin"
PASSES = "this plugin: a whole test that passes"
SPAWN = "torch elastic_launch, spawn"


def measure(report: Report, runs: int) -> None:
    """Let a rank fail in turn, and a whole test pass for comparison."""
    with tempfile.TemporaryDirectory() as name:
        rounds = Round()
        rounds.enter(PASSES, lambda: steady(elastic(PASSES, tests=runs + 1, nproc=4), 1))
        ours, spawn = Path(name, "ours"), Path(name, "spawn")
        rounds.enter(
            OURS, lambda: _from_stamps(elastic(OURS, "elastic_fails.py", tests=runs + 1, env=_env(ours)), ours)
        )
        rounds.enter(
            SPAWN, lambda: _from_stamps(other(SPAWN, "spawn_fails.py", tests=runs + 1, env=_env(spawn)), spawn)
        )
        times = rounds.run(runs)
    report.raw["verdict"] = times
    title = "From the failure of one of 4 ranks to the verdict"
    report.add(compare(title, times, bases=[PASSES, SPAWN], notes=rounds.notes()))


def _env(stamps: Path) -> dict[str, str]:
    return {"BENCH_STAMPS": str(stamps)}


def _from_stamps(session: Gated, stamps: Path) -> tuple[Gated, Turn]:
    def turn() -> dict[str, float]:
        stamps.write_text("")
        session.turn()
        failure, verdict = map(float, stamps.read_text().split())
        return {session.name: verdict - failure}

    return session, turn
