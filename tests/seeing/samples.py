"""Sessions as a page and a trace are made of them, without a rank."""

from __future__ import annotations

import random
from typing import Any

from pytest_elastic.report.seen import SeenTest
from pytest_elastic.report.timeline import Lane, Mark, Span, Stack, State, Timeline, to_data

DEADLINE_TEXT = "timed out after 3 s: test_hangs"


def lane(rank: int, state: State = "passed", *, world: int = 0, begin: float = 0.0, host: str = "") -> Lane:
    """Make a rank that ran a test for a second; those of an odd number are on the second node."""
    at = [round(begin + step, 6) for step in (0.0, 0.05, 0.1, 0.15, 0.3, 1.0, 1.01, 1.05)]
    steps = ("start", "rendezvous", "fork", "setup", "call", "teardown", "waiting")
    spans = [Span(doing=doing, begin=at[i], end=at[i + 1]) for i, doing in enumerate(steps)]  # type: ignore[arg-type]
    if state == "killed":
        spans = [*spans[:5], Span(doing="killed", begin=at[5], end=at[6], text="killed")]
    spans.append(Span(doing="waiting", begin=round(begin + 0.4, 6), end=round(begin + 0.9, 6), text="elastic_barrier"))
    return Lane(
        world=world,
        rank=rank,
        node=rank % 2,
        host=host,
        state=state,
        text={"passed": "passed", "failed": "failed first: assert 1 == 2"}.get(state, f"blocked in barrier, {state}"),
        spans=tuple(spans),
        pid=1000 + rank,
        stdout=f"rank {rank} reads <b>its & shard</b>\n</script><script>document.title = 'hacked'</script>",
        memory=tuple((round(begin + 0.1 * i, 6), 10**8 + rank * 10**6 + i) for i in range(8)),
    )


def passes(name: str = "test_passes", *, at: float = 1_000.0, ranks: int = 4) -> Timeline:
    """Make a launch that went well."""
    lanes = tuple(lane(rank) for rank in range(ranks))
    return Timeline(name=name, at=at, seconds=1.1, worlds=(ranks,), nodes=2, lanes=lanes)


def fails(name: str = "test_fails", *, at: float = 1_002.0) -> Timeline:
    """Make a launch whose second world fails on rank 2."""
    states: list[State] = ["collateral", "passed", "failed", "killed"]
    first = tuple(lane(rank, "failed" if rank == 1 else "collateral") for rank in range(4))
    second = tuple(lane(rank, state, world=1, begin=2.0) for rank, state in enumerate(states))
    return Timeline(
        name=name,
        at=at,
        seconds=3.2,
        worlds=(4, 4),
        nodes=2,
        restarts=1,
        verdict="rank 2 of 4 failed first, after 1.00 s: assert 1 == 2 (rank 3 blocked in barrier, killed)",
        culprit=2,
        lanes=(*first, *second),
        marks=(
            Mark(kind="fault", at=0.9, text="KillRank(1)", rank=1),
            Mark(kind="restart", at=2.1, text="restart 1, world of 4 ranks"),
            Mark(kind="failure", at=3.0, text="rank 2 failed first: assert 1 == 2", rank=2),
        ),
        stacks=(Stack(ranks=(0, 3), text='  File "test_x.py", line 7 in test_fails'),),
    )


def seen(nodeid: str, outcome: str, *timelines: Timeline, **more: Any) -> SeenTest:
    """Make a test that a session has seen."""
    seconds = sum(timeline.seconds for timeline in timelines)
    test = SeenTest(nodeid, outcome=outcome, seconds=seconds, launches=[to_data(timeline) for timeline in timelines])
    for name, value in more.items():
        setattr(test, name, value)
    return test


def session() -> list[SeenTest]:
    """Make a small session with a test of each kind."""
    return [
        seen("tests/test_a.py::test_passes", "passed", passes()),
        seen("tests/test_a.py::test_fails", "failed", fails(), texts=[("Call failed", "E   assert 1 == 2")]),
        seen("tests/test_a.py::test_slow", "passed", passes(at=1_010.0, ranks=2)),
        seen("tests/test_b.py::test_skipped", "skipped", verdict="no accelerator"),
        seen("tests/test_b.py::test_plain", "passed"),
    ]


def large_session(tests: int, ranks: int) -> list[SeenTest]:
    """Make a session of many tests, each with some output of each rank, of which no two are alike."""
    draw = random.Random(7)
    found = []
    for number in range(tests):
        lanes = []
        for rank in range(ranks):
            begin = draw.random() / 10
            times = sorted(begin + draw.random() for _ in range(8))
            steps = ("start", "rendezvous", "fork", "setup", "call", "teardown", "waiting")
            spans = tuple(
                Span(doing=doing, begin=times[i], end=times[i + 1])  # type: ignore[arg-type]
                for i, doing in enumerate(steps)
            )
            output = "".join(f"step {step}: loss {draw.random():.6f} on rank {rank}\n" for step in range(10))
            lanes.append(
                Lane(world=0, rank=rank, node=0, state="passed", text="passed", spans=spans, pid=rank, stdout=output)
            )
        timeline = Timeline(
            name=f"test_{number}", at=float(number), seconds=1.2, worlds=(ranks,), nodes=1, lanes=tuple(lanes)
        )
        found.append(seen(f"tests/test_large.py::test_{number}[{draw.random()}]", "passed", timeline))
    found[tests // 2].outcome = "failed"
    return found
