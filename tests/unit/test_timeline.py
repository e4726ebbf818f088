from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_elastic.messages import RankCaught, RankExited, RankFinished, RankId, RankReport
from pytest_elastic.report.durations import PARTS, parts_of, table_of
from pytest_elastic.report.happened import Told, clean, make_timeline
from pytest_elastic.report.rank_map import rank_map
from pytest_elastic.report.records import AgentRecord, LaunchRecord, RankRecord, Round, Wait
from pytest_elastic.report.timeline import Lane, State, Timeline, from_data, to_data

from ..seeing import samples

SECOND = 10**9
START = 50 * SECOND


def rank_id(rank: int, *, world: str = "w", size: int = 2, restart: int = 0) -> RankId:
    return RankId(world=world, rank=rank, local_rank=rank, node=0, group_rank=0, world_size=size, restart=restart)


def reports(me: RankId, *ends: tuple[str, float], bad: str = "") -> tuple[RankReport, ...]:
    return tuple(report(me, when, "failed" if when == bad else "passed", at) for when, at in ends)


def report(me: RankId, when: str, outcome: Literal["passed", "failed"], at: float) -> RankReport:
    made = pytest.TestReport(
        nodeid="test_it.py::test_it",
        location=("test_it.py", 1, "test_it"),
        keywords={},
        outcome=outcome,
        longrepr=f"failed in {when}" if outcome == "failed" else None,
        when=when,  # type: ignore[arg-type]
    )
    return RankReport(
        id=me,
        time_ns=ns(at),
        when=when,
        outcome=outcome,
        written=(0, 0),
        report=pickle.dumps(made._to_json()),
        exception=None,
        type="ValueError" if outcome == "failed" else "",
    )


def ns(seconds: float) -> int:
    return START + round(seconds * SECOND)


def exited(me: RankId, at: float, code: int = 0) -> RankExited:
    return RankExited(id=me, exitcode=code, time_ns=ns(at), stopped=False)


def begun(first: RankId, *times: float) -> Round:
    sought, met, started = times
    return Round(node=first.node, world=first.world, sought_ns=ns(sought), met_ns=ns(met), started_ns=ns(started))


def launch(
    ranks: tuple[RankRecord, ...], rounds: tuple[Round, ...], worlds: tuple[str, ...] = ("w",), **more: Any
) -> LaunchRecord:
    return LaunchRecord(
        name="test_it",
        work=more.pop("work", "test"),
        timeout=5.0,
        timed_out=more.pop("timed_out", False),
        started_ns=START,
        ended_ns=ns(2),
        nodes=1,
        nproc=2,
        worlds=worlds,
        ranks=ranks,
        agents=more.pop("agents", ()),
        rounds=rounds,
        events=(),
        leftovers=(),
        directory=Path("none"),
        **more,
    )


def done(lane: Lane) -> list[tuple[str, float, float]]:
    return [(span.doing, round(span.begin, 3), round(span.end, 3)) for span in lane.spans]


def test_each_step_of_a_rank_is_a_span_from_the_end_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_text("earlier\n\x1b[31mmine\x1b[0m\n")
    me = rank_id(0, size=1)
    rank = RankRecord(
        id=me,
        directory=tmp_path,
        begun=(8, 0),
        hello_ns=ns(0.5),
        reports=reports(me, ("setup", 0.7), ("call", 1.5), ("teardown", 1.6)),
        finished=RankFinished(id=me, time_ns=ns(1.61), started_ns=ns(0.5), value=None, leftovers=()),
        exited=exited(me, 1.9),
        memory=((ns(0.6), 10**8),),
        pid=77,
    )
    waits = (Wait(world="w", rank=0, what="elastic_barrier", begin_ns=ns(0.9), end_ns=ns(1.2)),)
    timeline = make_timeline(launch((rank,), (begun(me, 0.1, 0.2, 0.4),), waits=waits), Told())
    [lane] = timeline.lanes
    assert done(lane) == [
        ("start", 0.0, 0.1),
        ("rendezvous", 0.1, 0.2),
        ("fork", 0.2, 0.5),
        ("setup", 0.5, 0.7),
        ("call", 0.7, 1.5),
        ("teardown", 1.5, 1.6),
        ("waiting", 1.6, 1.9),
        ("waiting", 0.9, 1.2),
    ]
    assert (lane.state, lane.text, lane.stdout, lane.pid, lane.memory) == (
        "passed",
        "passed",
        "mine",
        77,
        ((0.6, 10**8),),
    )
    assert (timeline.seconds, timeline.worlds, timeline.marks) == (2.0, (1,), ())
    parts = {name: round(seconds, 3) for name, seconds in parts_of(timeline).items()}
    assert parts == {
        "start": 0.1,
        "attempts": 0.0,
        "rendezvous": 0.1,
        "fork": 0.3,
        "set-up": 0.2,
        "call": 0.8,
        "teardown": 0.1,
        "stop": 0.4,
    }


def test_a_rank_that_is_ended_was_in_the_phase_that_it_had_reached() -> None:
    ids = rank_id(0), rank_id(1)
    hung = RankRecord(
        id=ids[0],
        directory=Path("none"),
        hello_ns=ns(0.5),
        reports=reports(ids[0], ("setup", 0.7)),
        closed_ns=ns(1.5),
        killed=True,
        exited=exited(ids[0], 1.6, -9),
    )
    failed = RankRecord(
        id=ids[1],
        directory=Path("none"),
        hello_ns=ns(0.5),
        reports=reports(ids[1], ("setup", 0.7), ("call", 0.9), ("teardown", 1.0), bad="call"),
        exited=exited(ids[1], 1.1, 1),
    )
    record = launch((hung, failed), (begun(ids[0], 0.1, 0.2, 0.4),), timed_out=True)
    timeline = make_timeline(record, Told(verdict="rank 1 failed", culprit=1, failed=True))
    first, second = timeline.lanes
    assert done(first)[-2:] == [("call", 0.7, 1.5), ("killed", 1.5, 1.6)]
    assert (first.state, first.text) == ("killed", "killed")
    assert done(second)[-3:] == [("call", 0.7, 0.9), ("teardown", 0.9, 1.0), ("waiting", 1.0, 1.1)]
    assert (second.state, second.text) == ("failed", "failed first: failed in call")
    assert [(mark.kind, mark.rank, round(mark.at, 3)) for mark in timeline.marks] == [
        ("failure", 1, 0.9),
        ("deadline", None, 2.0),
    ]


def test_what_a_rank_caught_ends_its_phase_though_no_report_came() -> None:
    me = rank_id(0, size=1)
    rank = RankRecord(
        id=me,
        directory=Path("none"),
        hello_ns=ns(0.5),
        reports=reports(me, ("setup", 0.7)),
        caught=RankCaught(id=me, time_ns=ns(0.9), when="call", type="ValueError", message="told"),
        exited=exited(me, 1.2, 1),
    )
    timeline = make_timeline(launch((rank,), (begun(me, 0.1, 0.2, 0.4),)), Told(culprit=0, failed=True))
    assert done(timeline.lanes[0])[-2:] == [("call", 0.7, 0.9), ("teardown", 0.9, 1.2)]


def test_worlds_that_form_again_and_nodes_that_start_no_rank_are_there() -> None:
    first, second = rank_id(0, world="a", size=1), rank_id(0, world="b", size=1, restart=1)
    ranks = (
        RankRecord(
            id=first,
            directory=Path("none"),
            hello_ns=ns(0.5),
            reports=reports(first, ("setup", 0.7)),
            exited=exited(first, 0.8, -9),
            fault="KillRank(0)",
            fault_signal=9,
            fault_ns=ns(0.75),
        ),
        RankRecord(
            id=second,
            directory=Path("none"),
            hello_ns=ns(1.2),
            reports=reports(second, ("setup", 1.3), ("call", 1.4), ("teardown", 1.5)),
            finished=RankFinished(id=second, time_ns=ns(1.5), started_ns=ns(1.2), value=None, leftovers=()),
            exited=exited(second, 1.6),
        ),
    )
    agents = (
        AgentRecord(
            node=1, finished=None, exitcode=-9, killed=False, said_hello=True, hello_ns=ns(0.3), lost_ns=ns(0.6)
        ),
    )
    rounds = begun(first, 0.1, 0.2, 0.4), begun(second, 0.9, 1.0, 1.1)
    timeline = make_timeline(launch(ranks, rounds, ("a", "b"), agents=agents), Told())
    again, alone = timeline.lanes[1:]
    assert done(again)[:2] == [("rendezvous", 0.9, 1.0), ("fork", 1.0, 1.2)]
    assert done(alone) == [("start", 0.0, 0.3), ("rendezvous", 0.3, 0.6)]
    assert (alone.rank, alone.node, alone.state) == (None, 1, "killed")
    assert [(mark.kind, mark.text) for mark in timeline.marks] == [
        ("lost", "agent 1 was lost"),
        ("fault", "KillRank(0)"),
        ("restart", "restart 1, world of 1 rank"),
    ]
    assert (timeline.restarts, [lane.rank for lane in timeline.last_world()]) == (1, [0])
    assert round(parts_of(timeline)["attempts"], 3) == 0.8


def test_ranks_that_are_kept_have_no_start_of_their_own() -> None:
    me = rank_id(0, size=1)
    kept = RankRecord(
        id=me,
        directory=Path("none"),
        hello_ns=START,
        reports=reports(me, ("setup", 0.1), ("call", 0.2), ("teardown", 0.3)),
        finished=RankFinished(id=me, time_ns=ns(0.3), started_ns=START, value=None, leftovers=()),
    )
    long_ago = begun(me, -9.0, -8.0, -7.0)
    timeline = make_timeline(launch((kept,), (long_ago,), goes_on=True), Told())
    assert [doing for doing, _, _ in done(timeline.lanes[0])] == ["setup", "call", "teardown", "waiting"]


def test_functions_and_commands_have_a_call() -> None:
    me = rank_id(0, size=1)
    function = RankRecord(
        id=me,
        directory=Path("none"),
        hello_ns=ns(0.5),
        finished=RankFinished(id=me, time_ns=ns(0.9), started_ns=ns(0.6), value=None, leftovers=()),
        exited=exited(me, 1.0),
    )
    rounds = (begun(me, 0.1, 0.2, 0.4),)
    [lane] = make_timeline(launch((function,), rounds, work="function"), Told()).lanes
    assert done(lane)[3:] == [("setup", 0.5, 0.6), ("call", 0.6, 0.9), ("waiting", 0.9, 1.0)]
    command = RankRecord(id=me, directory=Path("none"), exited=exited(me, 1.0))
    [lane] = make_timeline(launch((command,), rounds, work="command"), Told()).lanes
    assert done(lane)[2:] == [("fork", 0.2, 0.4), ("call", 0.4, 1.0)]
    assert lane.state == "passed"


@pytest.mark.parametrize("timeline", [samples.passes(), samples.fails()], ids=["passes", "fails"])
def test_a_launch_travels_as_json(timeline: Timeline) -> None:
    assert from_data(json.loads(json.dumps(to_data(timeline)))) == timeline


def test_texts_are_fit_to_be_shown() -> None:
    assert clean("a\x1b[1;31mred\x1b[0m\x1b]0;title\x07\x00\ud800\tb\n") == "ared?\tb\n"


def test_a_map_of_ranks_names_each_of_a_few_and_neighbours_of_many_together() -> None:
    assert rank_map(["passed", "passed", "failed", "killed"]) == "0 ok 1 ok 2 FAILED 3 killed"
    many: list[State] = ["passed"] * 5 + ["failed"] + ["collateral"] * 4  # type: ignore[assignment]
    assert rank_map(many) == "0-4 ok 5 FAILED 6-9 lost-peer"
    assert rank_map([]) == ""


def test_the_table_of_durations_has_the_slowest_first() -> None:
    launches = [("test_a", samples.passes()), ("test_b", samples.fails())]
    head, first, second = table_of(launches, 0)
    assert head.split() == ["seconds", *PARTS, "test"]
    assert (first.split()[-1], second.split()[-1]) == ("test_b", "test_a")
    assert sum(map(float, first.split()[1:-1])) == pytest.approx(3.2, abs=0.01)
    assert len(table_of(launches, 1)) == 2
