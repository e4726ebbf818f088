from __future__ import annotations

from pytest_elastic.controller.gathering import Gathering, Settled, told
from pytest_elastic.messages import Meeting, Period


def call(
    what: str = "elastic_gather", *, number: int = 0, value: bytes = b"", period: Period = "test", error: str = ""
) -> Meeting:
    return Meeting(what=what, period=period, round=number, place="test_x.py:7", value=value, error=error)


def doings(settled: Settled | None) -> dict[int, str]:
    assert settled is not None
    assert settled.values is None
    assert settled.doings is not None
    return settled.doings


def test_all_values_come_in_order_of_rank_when_the_last_rank_has_called() -> None:
    gathering = Gathering(3)
    assert gathering.call(2, call(value=b"c")) is None
    assert gathering.call(0, call(value=b"a")) is None
    settled = gathering.call(1, call(value=b"b"))
    assert settled is not None
    assert settled.values == (b"a", b"b", b"c")
    assert settled.ranks == (0, 1, 2)


def test_a_rank_may_be_a_round_ahead() -> None:
    gathering = Gathering(2)
    assert gathering.call(0, call(value=b"0")) is None
    first = gathering.call(1, call(value=b"1"))
    assert gathering.call(1, call(value=b"3", number=1)) is None
    second = gathering.call(0, call(value=b"2", number=1))
    assert first is not None
    assert second is not None
    assert (first.values, second.values) == ((b"0", b"1"), (b"2", b"3"))


def test_different_calls_are_told_at_once_and_to_latecomers() -> None:
    gathering = Gathering(3)
    assert gathering.call(0, call()) is None
    settled = gathering.call(1, call("elastic_barrier"))
    assert doings(settled) == {
        0: "called elastic_gather at test_x.py:7",
        1: "called elastic_barrier at test_x.py:7",
        2: "has not called it yet",
    }
    assert settled is not None
    assert settled.what == {0: "elastic_gather", 1: "elastic_barrier"}
    late = gathering.call(2, call())
    assert late is not None
    assert late.ranks == (2,)
    assert doings(late)[2] == "called elastic_gather at test_x.py:7"
    # The next round is a new one.
    assert gathering.call(0, call(number=1)) is None


def test_a_rank_that_ended_breaks_the_calls_that_wait_for_it() -> None:
    gathering = Gathering(3)
    assert gathering.call(0, call()) is None
    [settled] = gathering.over(1, "passed", periods=("test",))
    assert settled.ranks == (0,)
    assert doings(settled)[1] == "passed"
    late = gathering.call(2, call())
    assert doings(late)[1] == "passed"
    # It is told once, and the first reason stays.
    assert gathering.over(1, "had ended") == []
    assert doings(gathering.call(0, call(number=1)))[1] == "passed"


def test_what_is_left_out_in_the_test_does_not_shift_the_calls_of_the_teardown() -> None:
    gathering = Gathering(2)
    assert gathering.call(0, call()) is None
    [settled] = gathering.over(1, "failed", periods=("test",))
    assert settled.ranks == (0,)
    gathering.over(0, "failed", periods=("test",))
    assert gathering.call(1, call("elastic_barrier", period="teardown")) is None
    both = gathering.call(0, call("elastic_barrier", period="teardown"))
    assert both is not None
    assert both.values is not None


def test_a_value_that_cannot_be_sent_is_told_to_all() -> None:
    gathering = Gathering(2)
    assert gathering.call(0, call()) is None
    settled = gathering.call(1, call(error="with a value of type 'lock' that cannot be pickled"))
    assert settled is not None
    assert settled.ranks == (0, 1)
    assert (
        doings(settled)[1] == "called elastic_gather at test_x.py:7 with a value of type 'lock' that cannot be pickled"
    )


def test_ranks_that_did_the_same_are_told_together() -> None:
    text = told({0: "passed", 1: "called it", 2: "called it", 3: "called it", 4: "passed"})
    assert text == "ranks 0,4 passed; ranks 1-3 called it"
