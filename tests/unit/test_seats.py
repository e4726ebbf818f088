from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_elastic.services.seats import Record, Seat

Sit = Callable[[str], Seat]


@pytest.fixture
def sit(tmp_path: Path) -> Sit:
    # Locks of one process exclude each other, as those of several do.
    return lambda process: Seat(tmp_path / "seat", process)


def test_the_first_makes_the_value_and_the_others_read_it(sit: Sit) -> None:
    owner, other = sit("gw0"), sit("gw1")
    with owner.guarded():
        assert owner.take() is None
        owner.publish(Record(True, b"value"))
    with other.guarded():
        assert other.take() == Record(True, b"value")


def test_a_value_is_not_withdrawn_while_it_is_lent(sit: Sit) -> None:
    owner, other = sit("gw0"), sit("gw1")
    with owner.guarded():
        owner.take()
        owner.publish(Record(True, b"value"))
    with other.guarded():
        other.take()
    with owner.guarded():
        assert not owner.vacate()
    other.give_back()
    owner.wait_for_leases()
    with owner.guarded():
        assert owner.vacate()
    owner.leave()
    with other.guarded():
        assert other.take() is None  # it makes another one


def test_a_failure_holds_for_the_whole_run(sit: Sit) -> None:
    owner, other = sit("gw0"), sit("gw1")
    with owner.guarded():
        owner.take()
        owner.publish(Record(False, b"why"))
    for seat in (other, owner, other):
        with seat.guarded():
            assert seat.take() == Record(False, b"why")


def test_a_value_whose_maker_is_gone_is_none(sit: Sit) -> None:
    owner, other = sit("gw0"), sit("gw1")
    with owner.guarded():
        owner.take()
        owner.publish(Record(True, b"value"))
    owner.leave()  # as the kernel does for a process that dies
    with other.guarded():
        assert other.take() is None
