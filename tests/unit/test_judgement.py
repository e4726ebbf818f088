from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import pytest

from pytest_elastic.messages import RankCaught, RankExited, RankFinished, RankId, RankReport
from pytest_elastic.report.culprit import ended_by_us
from pytest_elastic.report.judgement import Culprit, cause_of, find_failures, phase_reached
from pytest_elastic.report.merge import put_failure
from pytest_elastic.report.records import LaunchRecord, RankRecord


def rank_id(rank: int) -> RankId:
    return RankId(world="w", rank=rank, local_rank=rank, node=0, group_rank=0, world_size=2, restart=0)


def report(rank: int, when: str, outcome: Literal["passed", "failed", "skipped"], time_ns: int) -> RankReport:
    made = pytest.TestReport(
        nodeid="test_it.py::test_it",
        location=("test_it.py", 1, "test_it"),
        keywords={},
        outcome=outcome,
        longrepr=f"failed in {when}" if outcome == "failed" else None,
        when=when,  # type: ignore[arg-type]
    )
    return RankReport(
        id=rank_id(rank),
        time_ns=time_ns,
        when=when,
        outcome=outcome,
        written=(0, 0),
        report=pickle.dumps(made._to_json()),
        exception=None,
        type="ValueError" if outcome == "failed" else "",
    )


def ran(rank: int, *reports: RankReport, exitcode: int | None = None) -> RankRecord:
    exited = None
    if exitcode is not None:
        exited = RankExited(id=rank_id(rank), exitcode=exitcode, time_ns=99, stopped=False)
    return RankRecord(id=rank_id(rank), directory=Path(), reports=reports, exited=exited)


def launch_of(*ranks: RankRecord) -> LaunchRecord:
    return LaunchRecord(
        name="test_it",
        work="test",
        timeout=None,
        timed_out=False,
        started_ns=0,
        ended_ns=100,
        nodes=1,
        nproc=len(ranks),
        worlds=("w",),
        ranks=ranks,
        agents=(),
        events=(),
        leftovers=(),
        directory=Path(),
    )


def culprit_of(*ranks: RankRecord) -> Culprit:
    return find_failures(ranks)[0]


def test_of_a_call_and_an_earlier_teardown_on_another_rank_the_call_is_what_failed() -> None:
    early = ran(0, report(0, "setup", "passed", 1), report(0, "call", "passed", 2), report(0, "teardown", "failed", 3))
    late = ran(1, report(1, "setup", "passed", 1), report(1, "call", "failed", 9))
    culprit = culprit_of(early, late)
    assert (culprit.rank.id.rank, culprit.when) == (1, "call")


def test_a_death_comes_before_every_report() -> None:
    dead = ran(0, report(0, "setup", "passed", 1), exitcode=-9)
    culprit = culprit_of(dead, ran(1, report(1, "setup", "failed", 2)))
    assert (culprit.rank.id.rank, culprit.when, cause_of(culprit)) == (0, "call", "killed by SIGKILL")


def test_a_failure_that_was_caught_but_never_reported_is_known() -> None:
    caught = RankCaught(id=rank_id(1), time_ns=5, when="call", type="builtins.ValueError", message="half told")
    culprit = culprit_of(RankRecord(id=rank_id(1), directory=Path(), caught=caught))
    assert cause_of(culprit) == "ValueError: half told"


def test_a_failure_whose_report_never_came_has_the_traceback_that_was_sent_before(tmp_path: Path) -> None:
    where = 'Traceback (most recent call last):\n  File "test_it.py", line 7, in test_it\nValueError: half told\n'
    caught = RankCaught(id=rank_id(0), time_ns=5, when="call", type="ValueError", message="half told", traceback=where)
    (tmp_path / "stacks.txt").write_text("in the middle of its report")
    killed = RankExited(id=rank_id(0), exitcode=-9, time_ns=99, stopped=True)
    rank = RankRecord(id=rank_id(0), directory=tmp_path, caught=caught, exited=killed)
    shown = pytest.TestReport("", ("", None, ""), {}, "passed", None, "call")
    put_failure(shown, launch_of(rank), culprit_of(rank), location=("test_it.py", 1), again=False)
    assert where.rstrip() in shown.longreprtext
    assert "in the middle" not in shown.longreprtext


def test_a_rank_that_failed_and_was_stopped_in_its_teardown_was_not_ended_by_us() -> None:
    caught = RankCaught(id=rank_id(0), time_ns=5, when="call", type="ValueError", message="first")
    stopped = RankExited(id=rank_id(0), exitcode=-15, time_ns=99, stopped=True)
    assert not ended_by_us(RankRecord(id=rank_id(0), directory=Path(), caught=caught, exited=stopped))


def test_finished_ranks_are_no_culprits() -> None:
    done = RankFinished(id=rank_id(0), time_ns=1, started_ns=0, value=None, leftovers=())
    assert find_failures([RankRecord(id=rank_id(0), directory=Path(), finished=done)]) == []


@pytest.mark.parametrize(
    ("phases", "reached"),
    [((), "setup"), (("setup",), "call"), (("setup", "call"), "teardown"), (("setup", "call", "teardown"), "teardown")],
)
def test_the_phase_that_a_rank_was_in(phases: tuple[str, ...], reached: str) -> None:
    assert phase_reached(ran(0, *(report(0, phase, "passed", 1) for phase in phases))) == reached
