"""Whatever ranks say and however they end: there is a judgement, and it is no pass if one of them failed."""

from __future__ import annotations

import pickle
import random
import signal
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_elastic.messages import (
    AgentFinished,
    RankCaught,
    RankExited,
    RankFailed,
    RankFinished,
    RankId,
    RankReport,
)
from pytest_elastic.report.culprit import Blame
from pytest_elastic.report.judgement import Judgement, find_failures, judge_test
from pytest_elastic.report.merge import put_attempts, put_failure
from pytest_elastic.report.records import AgentRecord, LaunchRecord, RankRecord, Work
from pytest_elastic.report.verdict import judge

from ..fuzzing import fuzz

NOWHERE = Path("/there/is/no/such/directory")
PHASES = ("setup", "call", "teardown")
ERRORS = (
    ("builtins.ValueError", "wrong shape"),
    ("builtins.RuntimeError", "Connection closed by peer [127.0.0.1]:1"),
    ("pytest_elastic.errors.RanksDivergedError", "rank 1 is gone"),
    ("builtins.SystemExit", "3"),
    ("", ""),
    ("a.b", "two\nlines \0 \ud800"),
)
times = st.integers(0, 6)  # so few that some are the same
Outcome = Literal["passed", "failed", "skipped"]


@lru_cache
def pickled(when: str, outcome: Outcome, message: str) -> bytes:
    longrepr: Any = {"passed": None, "failed": message, "skipped": ("test_it.py", 1, f"Skipped: {message}")}[outcome]
    report = pytest.TestReport("n", ("test_it.py", 1, "n"), {}, outcome, longrepr, when)  # type: ignore[arg-type]
    return pickle.dumps(report._to_json())


@st.composite
def reports(draw: st.DrawFn, id: RankId) -> tuple[RankReport, ...]:  # noqa: A002 (the field's name)
    made = []
    for when in PHASES[: draw(st.integers(0, 3))]:
        outcome: Outcome = draw(st.sampled_from(["passed", "passed", "failed", "skipped"]))
        type_name, message = draw(st.sampled_from(ERRORS))
        unreadable = draw(st.integers(0, 19)) == 0
        made.append(
            RankReport(
                id=id,
                time_ns=draw(times),
                when=when,
                outcome=outcome,
                written=(0, 0),
                report=b"no pickle" if unreadable else pickled(when, outcome, message),
                exception=draw(st.sampled_from([None, b"no pickle"])),
                type=type_name if outcome != "passed" else "",
                expected=draw(st.sampled_from([None, None, "reason: known"])) if outcome == "skipped" else None,
                subtest=draw(st.integers(0, 4)) == 0,
                stopped=outcome == "failed" and draw(st.integers(0, 3)) == 0,
            )
        )
    return tuple(made)


@st.composite
def ranks(draw: st.DrawFn, id: RankId) -> RankRecord:  # noqa: A002
    type_name, message = draw(st.sampled_from(ERRORS))
    failed = RankFailed(
        id=id,
        time_ns=draw(times),
        how=draw(st.sampled_from(["raised", "exited", "result"])),
        type=type_name,
        message=message,
        traceback=message,
        exitcode=draw(st.sampled_from([None, 3])),
    )
    caught = RankCaught(id=id, time_ns=draw(times), when=draw(st.sampled_from(PHASES)), type=type_name, message=message)
    value = draw(st.sampled_from([None, pickle.dumps(1), b"no pickle"]))
    finished = RankFinished(id=id, time_ns=draw(times), started_ns=0, value=value, leftovers=())
    codes = [0, 0, 1, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT, -signal.SIGSEGV, 255, -99]
    exited = RankExited(
        id=id,
        exitcode=draw(st.sampled_from(codes)),
        time_ns=draw(times),
        stopped=draw(st.booleans()),
        forced=draw(st.booleans()),
    )
    some = draw(st.sets(st.sampled_from(["hello", "failed", "caught", "finished", "finished", "exited", "exited"])))
    return RankRecord(
        id=id,
        directory=NOWHERE,
        hello_ns=draw(times) if "hello" in some else None,
        failed=failed if "failed" in some and draw(st.booleans()) else None,
        caught=caught if "caught" in some and draw(st.booleans()) else None,
        finished=finished if "finished" in some else None,
        exited=exited if "exited" in some else None,
        reports=draw(reports(id)),
        killed=draw(st.booleans()),
        was_stopped=draw(st.booleans()),
        fault=draw(st.sampled_from(["", "KillRank(1)"])),
        fault_signal=signal.SIGKILL,
    )


@st.composite
def agents(draw: st.DrawFn, node: int) -> AgentRecord:
    finished = AgentFinished(
        node=node,
        state=draw(st.sampled_from(["SUCCEEDED", "FAILED"])),
        exception=draw(st.sampled_from([None, None, b"no pickle"])),
        traceback=draw(st.sampled_from(["", "RuntimeError: no node"])),
        shutdowns=1,
        rounds=1,
        restarts=0,
        group_rank=draw(st.sampled_from([None, node])),
        left_ns=draw(st.sampled_from([None, 3])),
    )
    return AgentRecord(
        node=node,
        finished=draw(st.sampled_from([finished, finished, None])),
        exitcode=draw(st.sampled_from([None, 0, 1, -9])),
        killed=draw(st.booleans()),
        said_hello=draw(st.booleans()),
        lost_ns=draw(st.sampled_from([None, None, None, 3])),
    )


@st.composite
def launches(draw: st.DrawFn, works: tuple[Work, ...]) -> LaunchRecord:
    nodes = draw(st.integers(1, 2))
    worlds = tuple(f"w{number}" for number in range(draw(st.sampled_from([1, 1, 1, 2, 0]))))
    made = []
    for restart, world in enumerate(worlds):
        nproc = draw(st.integers(1, 2))
        for rank in range(nodes * nproc):
            node = rank // nproc
            sizes = {"world_size": nodes * nproc, "restart": restart}
            id_ = RankId(world=world, rank=rank, local_rank=rank % nproc, node=node, group_rank=node, **sizes)
            made.append(draw(ranks(id_)))
    timed_out = draw(st.integers(0, 4)) == 0
    return LaunchRecord(
        name="test_it",
        work=draw(st.sampled_from(works)),
        timeout=5.0,
        timed_out=timed_out,
        started_ns=0,
        ended_ns=10,
        nodes=nodes,
        nproc=1,
        worlds=worlds,
        ranks=tuple(made),
        agents=tuple(draw(agents(node)) for node in range(nodes)),
        events=(),
        leftovers=(),
        directory=NOWHERE,
        server_lost=draw(st.sampled_from([None] * 9 + ["its last words"])),
        cut_short=draw(st.integers(0, 9)) == 0,
        split=worlds if len(worlds) == 2 and draw(st.integers(0, 4)) == 0 else (),
        faults_left=draw(st.sampled_from([(), (), (), ("KillRank(1)",)])),
        goes_on=draw(st.integers(0, 9)) == 0,
    )


def told(judgements: tuple[Judgement, ...]) -> list[tuple[object, ...]]:
    """Return what is told of a test, in words."""
    return [
        (each.kind, each.when, each.message, str(each.error), each.culprit and each.culprit.rank.id.rank)
        for each in judgements
    ]


@fuzz(40)
@given(record=launches(("test",)), seed=st.integers(0, 99))
def test_judgements_of_tests(record: LaunchRecord, seed: int) -> None:
    judgements = judge_test(record)
    last = record.last_world()
    # There is one, of each phase at most, and the culprits are ranks of the last world.
    assert 1 <= len(judgements) <= 2
    assert len({each.when for each in judgements}) == len(judgements)
    assert all(each.culprit is None or any(each.culprit.rank is rank for rank in last) for each in judgements)
    # It is no pass where a rank failed or is without an end.
    kinds = {each.kind for each in judgements}
    own = [failure for failure in find_failures(last) if failure.blame <= Blame.OWN]
    silent = [rank for rank in last if rank.finished is None and rank.failed is None and not record.goes_on]
    if own or any(rank.failed is not None for rank in last):
        assert kinds & {"failed", "ended", "disagreed", "xfailed"}
    if own:
        assert kinds & {"failed", "ended", "disagreed"}
    if silent and not own:
        assert kinds & {"failed", "ended", "disagreed", "skipped", "xfailed"}
    # The order in which it was heard of ranks is no matter, nor is how often one asks.
    mixed = list(record.ranks)
    random.Random(seed).shuffle(mixed)
    assert told(judge_test(with_ranks(record, tuple(mixed)))) == told(judgements) == told(judge_test(record))
    for again, each in enumerate(judgements):
        if each.kind == "failed":
            assert each.culprit is not None
            report = pytest.TestReport("n", ("test_it.py", 1, "n"), {}, "passed", None, each.when)
            put_failure(report, record, each.culprit, location=("test_it.py", 1), again=bool(again))
            put_attempts(report, record)
            assert report.failed
            assert f"rank {each.culprit.rank.id.rank} of {len(last)} failed" in report.longreprtext


@fuzz(40)
@given(record=launches(("function", "script", "command")), seed=st.integers(0, 99))
def test_verdicts_of_launches(record: LaunchRecord, seed: int) -> None:
    verdict = judge(record)
    last = record.last_world()
    assert {failure.rank for failure in verdict.result.failures} <= {rank.id.rank for rank in last}
    for rank in last:
        command = record.work == "command" and rank.exited is not None and rank.exited.exitcode == 0
        if rank.failed is not None or (rank.finished is None and not command):
            assert verdict.error is not None
            assert rank.id.rank not in verdict.result
    assert (verdict.error is None) == (verdict.result.problem == "")
    mixed = list(record.ranks)
    random.Random(seed).shuffle(mixed)
    for other in (judge(with_ranks(record, tuple(mixed))), judge(record)):
        assert str(other.error) == str(verdict.error)
        assert [each.rank for each in other.result.failures] == [each.rank for each in verdict.result.failures]


def with_ranks(record: LaunchRecord, mixed: tuple[RankRecord, ...]) -> LaunchRecord:
    return replace(record, ranks=mixed)
