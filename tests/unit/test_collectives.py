"""What reports make of the collectives that ranks have kept."""

from __future__ import annotations

import json
import weakref
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.messages import RankCaught, RankId
from pytest_elastic.report.collectives import (
    BEGUN,
    LOG_NAME,
    NOW_NAME,
    OVER,
    RETURNED,
    came_apart_text,
    collectives_text,
    read_collectives,
)
from pytest_elastic.report.records import RankRecord
from pytest_elastic.worker.collectives import KeptCollectives, _Call, _Pair


def line(
    number: int,
    operation: str,
    seq: int,
    *,
    ended: bool = True,
    tensors: str = "[4] float32",
    where: str = "test_it.py:7",
    called: str = "",
    made: int = 1,
    group: str = "0",
    description: str = "default_pg",
    ranks: tuple[int, ...] = (0, 1, 2),
    at: int | None = None,
    peer: str = "",
) -> list[Any]:
    time_ns = number if at is None else at
    what = [group, description, operation, seq, tensors, called or operation, where, time_ns, peer, list(ranks)]
    return [number, ended, made, *what]


def record(directory: Path, rank: int, *lines: list[Any], now: bytes = b"", caught: str = "") -> RankRecord:
    own = directory / str(rank)
    own.mkdir()
    (own / LOG_NAME).write_text("".join(json.dumps(each) + "\n" for each in lines))
    (own / NOW_NAME).write_bytes(now.ljust(64, b"\0"))
    me = RankId(world="w", rank=rank, local_rank=rank, node=0, group_rank=0, world_size=3, restart=0)
    said = RankCaught(id=me, time_ns=1, when="call", type="RuntimeError", message=caught, place="") if caught else None
    return RankRecord(id=me, directory=own, caught=said)


def note(state: bytes, *what: Any) -> bytes:
    return state + json.dumps(line(*what)[3:]).encode() + b"\n"


def test_ranks_at_different_operations_came_apart_the_odd_one_first(tmp_path: Path) -> None:
    ranks = [
        record(tmp_path, 0, line(1, "all_reduce", 1), line(2, "all_reduce", 2, ended=False)),
        record(tmp_path, 1, line(1, "all_reduce", 1), line(2, "broadcast", 2, ended=False, where="test_it.py:9")),
        record(tmp_path, 2, line(1, "all_reduce", 1), line(2, "all_reduce", 2, ended=False)),
    ]
    assert came_apart_text(ranks) == (
        "the ranks came apart at collective #2 of the default group: "
        "rank 1 began broadcast of [4] float32, test_it.py:9; ranks 0,2 began all_reduce of [4] float32, test_it.py:7"
    )
    assert collectives_text(ranks).splitlines() == [
        "rank 1: at broadcast #2 of [4] float32, test_it.py:9",
        "ranks 0,2: at all_reduce #2 of [4] float32, test_it.py:7",
    ]


def test_one_that_goes_on_alone_came_apart_where_it_left_the_others(tmp_path: Path) -> None:
    """A root is done with its broadcast before anybody else has come."""
    ranks = [
        record(tmp_path, 0, line(1, "broadcast", 1), line(2, "all_reduce", 2, ended=False)),
        record(tmp_path, 1, line(1, "all_reduce", 1, ended=False)),
    ]
    assert came_apart_text(ranks).startswith("the ranks came apart at collective #1 of the default group: rank 0 began")


@pytest.mark.parametrize(
    ("operation", "apart"),
    [("all_reduce", True), ("broadcast", True), ("gather", False), ("scatter", False), ("all_to_all", False)],
)
def test_shapes_count_where_they_have_to_be_the_same(tmp_path: Path, operation: str, apart: bool) -> None:
    ranks = [
        record(tmp_path, 0, line(1, operation, 1)),
        record(tmp_path, 1, line(1, operation, 1, tensors="[5] float32")),
    ]
    assert bool(came_apart_text(ranks)) is apart


def test_a_rank_that_is_behind_has_not_come_apart(tmp_path: Path) -> None:
    ranks = [
        record(tmp_path, 0, line(1, "all_reduce", 1), line(2, "barrier", 2, ended=False, tensors="")),
        record(tmp_path, 1, line(1, "all_reduce", 1)),
        record(tmp_path, 2),
    ]
    assert came_apart_text(ranks) == ""
    assert collectives_text(ranks).splitlines() == [
        "rank 0: at barrier #2, test_it.py:7",
        "rank 1: at none, its last was all_reduce #1 of [4] float32, test_it.py:7",
        "rank 2: has begun none",
    ]


def test_nothing_is_said_where_nobody_kept_any(tmp_path: Path) -> None:
    ranks = [record(tmp_path, 0), record(tmp_path, 1)]
    assert (collectives_text(ranks), came_apart_text(ranks)) == ("", "")
    (tmp_path / "0" / LOG_NAME).unlink()
    (tmp_path / "0" / NOW_NAME).unlink()
    assert read_collectives(tmp_path / "0") == ()


def test_groups_made_anew_are_not_compared(tmp_path: Path) -> None:
    ranks = [
        record(tmp_path, 0, line(1, "all_reduce", 1, made=1), line(2, "broadcast", 1, made=2)),
        record(tmp_path, 1, line(1, "all_reduce", 1, made=1)),
    ]
    assert came_apart_text(ranks) == ""


def test_other_groups_are_named_by_their_ranks_and_what_they_are_for(tmp_path: Path) -> None:
    ranks = [
        record(tmp_path, 0, line(1, "all_reduce", 1, group="3", description="tp", ranks=(0, 2))),
        record(tmp_path, 2, line(1, "barrier", 1, group="3", description="tp", ranks=(0, 2), tensors="")),
    ]
    assert came_apart_text(ranks).startswith("the ranks came apart at collective #1 of group 'tp' of ranks 0,2: ")
    one = record(tmp_path, 1, line(1, "all_reduce", 1, group="3", description="undefined", ranks=(0, 2), called="x"))
    assert [str(each) for each in read_collectives(one.directory)] == [
        "all_reduce #1 in group of ranks 0,2 of [4] float32, x at test_it.py:7"
    ]


def test_what_is_sent_to_one_rank_has_no_number(tmp_path: Path) -> None:
    ranks = [
        record(tmp_path, 0, line(-1, "recv", 0, ended=False, peer="from rank 2", at=5)),
        record(tmp_path, 1, line(0, "barrier", 1, ended=False, tensors="")),
    ]
    assert came_apart_text(ranks) == ""
    assert "rank 0: at recv from rank 2 of [4] float32, test_it.py:7" in collectives_text(ranks)


def test_the_end_of_one_is_told_later(tmp_path: Path) -> None:
    one = record(tmp_path, 0, line(1, "all_reduce", 1, ended=False), ["ended", 1], ["ended", 99])
    assert [each.ended for each in read_collectives(one.directory)] == [True]


@pytest.mark.parametrize(("state", "ended"), [(BEGUN, False), (RETURNED, None), (OVER, True)])
def test_what_was_noted_last_counts_if_it_is_newer(tmp_path: Path, state: bytes, ended: bool | None) -> None:
    newer = record(tmp_path, 0, line(5, "all_reduce", 1), now=note(state, 6, "broadcast", 2))
    assert [(each.operation, each.ended) for each in read_collectives(newer.directory)] == [
        ("all_reduce", True),
        ("broadcast", ended),
    ]
    older = record(tmp_path, 1, line(5, "all_reduce", 1), now=note(state, 4, "all_reduce", 1))
    assert len(read_collectives(older.directory)) == 1
    said = {False: "at broadcast #2", None: "its last was broadcast #2", True: "at none, its last was broadcast #2"}
    assert said[ended] in collectives_text([newer])


def test_what_an_earlier_test_began_is_left_aside(tmp_path: Path) -> None:
    one = record(
        tmp_path,
        0,
        line(1, "all_reduce", 1, at=10),
        ["begin", 20],
        line(2, "all_reduce", 2, at=15),  # written late
        line(3, "barrier", 3, at=25),
        now=note(RETURNED, 12, "all_reduce", 1),
    )
    assert [each.operation for each in read_collectives(one.directory)] == ["barrier"]


def test_a_rank_that_lost_its_peer_failed_in_what_the_recorder_has_as_ended(tmp_path: Path) -> None:
    one = record(tmp_path, 0, line(1, "all_reduce", 1), caught="Connection closed by peer [127.0.0.1]:1")
    assert collectives_text([one]) == "rank 0: failed in all_reduce #1 of [4] float32, test_it.py:7"


@pytest.mark.parametrize(
    "junk",
    [
        "{",
        "[]",
        "7",
        '"x"',
        "[1]",
        '["begin"]',
        '["begin", "x"]',
        '["ended"]',
        "[[1], 2]",
        '[2, true, 1, "0"]',
        "[null]",
    ],
)
def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path, junk: str) -> None:
    one = record(tmp_path, 0, line(1, "all_reduce", 1))
    with (one.directory / LOG_NAME).open("a") as log:
        log.write(f"{junk}\n\xff\n")
    (one.directory / NOW_NAME).write_bytes(b"b" + junk.encode())
    assert [each.operation for each in read_collectives(one.directory)] == ["all_reduce"]


def test_what_a_rank_did_after_it_was_woken_for_its_stacks_does_not_count(tmp_path: Path) -> None:
    ranks = [
        record(tmp_path, 0, line(1, "all_reduce", 1)),
        replace(record(tmp_path, 1, line(1, "barrier", 1)), was_stopped=True),
    ]
    assert came_apart_text(ranks) == ""
    # It may have waited for the other one until that was woken.
    assert "rank 0: its last was all_reduce #1 of [4] float32, test_it.py:7" in collectives_text(ranks).splitlines()
    assert "rank 1: was stopped by a signal (SIGSTOP)" in collectives_text(ranks).splitlines()


def test_the_last_sixteen_are_kept(tmp_path: Path) -> None:
    one = record(tmp_path, 0, *(line(number, "all_reduce", number) for number in range(1, 41)))
    assert [each.seq for each in read_collectives(one.directory)] == list(range(25, 41))


@pytest.mark.parametrize(
    ("tensors", "apart"), [("[2, 2] float32", False), ("[2, 2] int32", True), ("[] float32", True)]
)
def test_shapes_of_as_many_elements_fit(tmp_path: Path, tensors: str, apart: bool) -> None:
    ranks = [
        record(tmp_path, 0, line(1, "all_reduce", 1)),
        record(tmp_path, 1, line(1, "all_reduce", 1, tensors=tensors)),
    ]
    assert bool(came_apart_text(ranks)) is apart


def test_what_was_called_is_not_compared_to_what_gloo_makes_of_it(tmp_path: Path) -> None:
    ranks = [
        record(tmp_path, 0, line(1, "reduce_scatter", 1)),
        record(tmp_path, 1, line(1, "reduce_scatter", 1, tensors="2 x [4] float32", made=0)),
    ]
    assert came_apart_text(ranks) == ""


def test_what_a_rank_may_wait_for_is_named_however_long_ago_it_began(tmp_path: Path) -> None:
    lines = [line(number, "all_reduce", number, ended=number != 3) for number in range(1, 41)]
    ranks = [record(tmp_path, 0, *lines), record(tmp_path, 1, *lines[:3], line(4, "barrier", 4, ended=False))]
    assert collectives_text(ranks).splitlines() == [
        "rank 0: its last was all_reduce #40 of [4] float32, test_it.py:7; "
        "the first that has not ended is all_reduce #3 of [4] float32, test_it.py:7",
        "rank 1: at barrier #4 of [4] float32, test_it.py:7; "
        "the first that has not ended is all_reduce #3 of [4] float32, test_it.py:7",
    ]


def test_groups_that_torch_wraps_to_compare_ranks_are_named_by_the_calls() -> None:
    kept = KeptCollectives.__new__(KeptCollectives)
    kept._names = {}
    kept._calls = deque([_Call("all_gather", "", "", 10, ["0", "default_pg", "all_gather", 2], end_ns=20)])
    entry = {"process_group": ("", ""), "profiling_name": "gloo:all_gather"}
    assert not kept._named({**entry, "pg_id": 1, "collective_seq_id": 8, "time_created_ns": 12})  # it compares
    named = {**entry, "pg_id": 0, "collective_seq_id": 2, "time_created_ns": 15}
    assert kept._named(named)
    assert named["process_group"] == ("0", "default_pg")
    later = {**entry, "pg_id": 0, "collective_seq_id": 3, "time_created_ns": 30}  # of C++
    assert kept._named(later)


def test_what_was_sent_has_ended_though_somebody_still_holds_it() -> None:
    class Work:
        over = False

        def is_completed(self) -> bool:
            return self.over

    kept, work = KeptCollectives.__new__(KeptCollectives), Work()
    kept._pairs = deque([_Pair(-1, ["line"], weakref.ref(work))])
    assert list(kept._between_two()) == [[-1, False, 0, "line"]]
    work.over = True
    assert list(kept._between_two()) == [["ended", -1]]
    assert list(kept._between_two()) == []
