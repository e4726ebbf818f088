"""What does it cost that ranks keep their last collectives?"""

from __future__ import annotations

from functools import partial

from contestant import Gated, elastic
from questions.peers import steady
from report import Report, compare
from rounds import Round, Turn

OFF = "off"
ON = "--elastic-debug=collectives"
DETAIL = "TORCH_DISTRIBUTED_DEBUG=DETAIL"
RANKS = 4
SUMS = 1000


def measure(report: Report, runs: int) -> None:
    """Compare tests of one all_reduce, and of many."""
    for sums, batch, title in ((1, 5, "one all_reduce"), (SUMS, 1, f"{SUMS} of them")):
        rounds = Round()
        for name in (OFF, ON, DETAIL):
            rounds.enter(name, partial(_contestant, name, sums, runs, batch))
        times = rounds.run(runs)
        report.raw[f"collectives/{sums}"] = times
        report.add(
            compare(
                f"Ranks that keep their last collectives: a test of {RANKS} ranks with {title}",
                times,
                bases=[OFF],
                notes=rounds.notes(),
            )
        )


def _contestant(name: str, sums: int, runs: int, batch: int) -> tuple[Gated, Turn]:
    env = {"BENCH_SUMS": str(sums)}
    if name == ON:
        env["PYTEST_ADDOPTS"] = ON
    if name == DETAIL:
        env["TORCH_DISTRIBUTED_DEBUG"] = "DETAIL"
    return steady(elastic(name, tests=(runs + 1) * batch, env=env, nproc=RANKS), batch)
