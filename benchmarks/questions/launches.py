"""What does a launch by the fixture cost, in each of its ways, beside torch's own?"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from contestant import Gated, elastic, other
from questions.peers import steady
from report import Report, compare
from rounds import Round, Turn

SPAWN = "torch elastic_launch, spawn"
WAYS: dict[str, dict[str, Any]] = {
    "elastic_launch": {},
    'elastic_launch, agent="inline"': {"agent": "inline"},
    'elastic_launch, start_method="spawn"': {"start_method": "spawn"},
}


def measure(report: Report, runs: int) -> None:
    """Launch the same function in turn."""
    rounds = Round()
    rounds.enter(SPAWN, lambda: steady(other(SPAWN, "spawn_sum.py", tests=runs + 1), 1))
    for name, settings in WAYS.items():
        rounds.enter(name, partial(_ours, name, settings, runs + 1))
    times = rounds.run(runs)
    report.raw["launches"] = times
    report.add(
        compare("A launch of 4 ranks by the fixture (seconds a test)", times, bases=[SPAWN], notes=rounds.notes())
    )


def _ours(name: str, settings: dict[str, Any], tests: int) -> tuple[Gated, Turn]:
    env = {"BENCH_LAUNCH": json.dumps(settings)}
    return steady(elastic(name, "fixture_sum.py", tests=tests, env=env), 1)
