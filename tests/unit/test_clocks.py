"""Deadlines hold whatever a test does to the clock of its process."""

from __future__ import annotations

import sys
import time

import pytest

from pytest_elastic import clock
from pytest_elastic.controller.clocks import Clocks


def freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clocks in ``time`` and, as freezegun does, wherever a module has them under a name of its own."""
    for name in ("monotonic", "monotonic_ns"):
        real, value = getattr(time, name), getattr(time, name)()
        for module in list(sys.modules.values()):
            for attribute, found in list(vars(module).items()):
                if found is real and module.__name__.startswith(("time", "pytest_elastic")):
                    monkeypatch.setattr(module, attribute, lambda value=value: value)


def test_the_clocks_go_on_where_time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(grace=1e-9)
    clocks.start(1e-9)
    clocks.rank_failed("a world")
    freeze(monkeypatch)
    assert time.monotonic() == time.monotonic()
    assert clock.monotonic() < clock.monotonic()
    assert clock.monotonic_ns() < clock.monotonic_ns()
    assert clocks.deadline_has_come()
    assert clocks.expired_worlds() == ["a world"]


@pytest.mark.parametrize("timeout", [10**7, 1e300, 10**400])
def test_the_longest_wait_is_one_that_every_system_call_takes(timeout: float) -> None:
    clocks = Clocks(grace=2.0)
    clocks.start(timeout)
    patience = clocks.patience()
    assert patience is not None
    assert 0 < patience <= clock.LONG
    assert not clocks.deadline_has_come()


def test_clocks_that_stand_still_go_on_where_they_were() -> None:
    clocks = Clocks(grace=1e-9)
    clocks.start(1e-9)
    clocks.pause()
    before = clocks.stood_for
    clocks.rank_failed("a world")
    assert clocks.patience() is None
    assert clocks.expired_worlds() == []
    assert clocks.stood_for > before
    clocks.start(1e6)
    clocks.resume()
    stood_for = clocks.stood_for
    assert clocks.stood_for == stood_for
    patience = clocks.patience()
    assert patience == 0.0
    assert clocks.expired_worlds() == ["a world"]
    assert not clocks.deadline_has_come()


def test_the_clock_is_that_of_other_processes() -> None:
    assert abs(clock.monotonic_ns() - time.monotonic_ns()) < 10**9
    assert abs(clock.monotonic() - time.monotonic()) < 1
