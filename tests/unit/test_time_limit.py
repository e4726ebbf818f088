"""What becomes of a limit of pytest-timeout's: the launch's deadline, and when its own timer is set for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from pytest_elastic.controller.time_limit import LIMIT, Pause, TimeLimit


class Settings(NamedTuple):
    timeout: float
    func_only: bool = False


class Item:
    """Stands for a test: its hooks are those of pytest-timeout, which asks others before it sets its timer."""

    def __init__(self) -> None:
        self.timer: float | None = None
        self.ihook = SimpleNamespace(
            pytest_timeout_set_timer=self._set_timer, pytest_timeout_cancel_timer=self._cancel_timer
        )
        self.limit = TimeLimit(self)  # type: ignore[arg-type]

    def _set_timer(self, item: Any, settings: Settings) -> None:
        if self.limit.set_by(settings) is None:
            assert self.timer is None, "a timer was not cancelled"
            self.timer = settings.timeout

    def _cancel_timer(self, item: Any) -> None:
        self.timer = None

    def set_for(self) -> float | None:
        return self.timer


class Launch:
    def __init__(self) -> None:
        self.shortened: list[tuple[float, str]] = []

    def limit_call(self, timeout: float, by: str) -> None:
        self.shortened.append((timeout, by))


def test_the_smaller_one_holds() -> None:
    item = Item()
    assert item.limit.smaller(60.0) == (60.0, "")
    item.ihook.pytest_timeout_set_timer(item=item, settings=Settings(3))
    assert item.limit.smaller(60.0) == (3.0, "pytest-timeout")
    assert item.limit.smaller(None) == (3.0, "pytest-timeout")
    assert item.limit.smaller(2.0) == (2.0, "")


def test_the_timer_is_as_ever_before_the_launch_and_later_from_then_on_in_each_attempt() -> None:
    item = Item()
    item.ihook.pytest_timeout_set_timer(item=item, settings=Settings(3))
    for _ in range(2):
        item.limit.begin_attempt()
        assert item.set_for() == 3
        item.limit.smaller(60.0)
        assert item.set_for() is None  # it waits for slots, perhaps
        item.limit.begun(Launch())  # type: ignore[arg-type]
        assert item.set_for() == 18.0


def test_a_limit_of_the_call_counts_from_its_beginning() -> None:
    item, launch = Item(), Launch()
    item.limit.begin_attempt()
    assert item.limit.smaller(60.0) == (60.0, "")
    item.limit.begun(launch)  # type: ignore[arg-type]
    assert item.set_for() is None
    item.ihook.pytest_timeout_set_timer(item=item, settings=Settings(3, func_only=True))
    assert launch.shortened == [(3, "pytest-timeout")]
    assert item.set_for() == 18.0


def test_the_limit_of_a_plain_test_counts_anew_when_its_launch_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    item = Plain()
    monkeypatch.setattr("pytest_elastic.compat.timeout_settings", lambda item: Settings(3))
    pause = Pause(item)  # type: ignore[arg-type]
    pause.end()
    assert item.done == []
    pause.begin()
    pause.begin()
    pause.end()
    assert item.done == ["cancelled", 3]
    item.stash[LIMIT] = None  # a test on ranks, whose limit is the launch's
    other = Pause(item)  # type: ignore[arg-type]
    other.begin()
    other.end()
    assert item.done == ["cancelled", 3]


class Plain:
    """Stands for a plain test with a timer of pytest-timeout's."""

    def __init__(self) -> None:
        self.stash: dict[Any, Any] = {}
        self.done: list[Any] = []
        self.cancel_timeout = print
        self.ihook = SimpleNamespace(
            pytest_timeout_set_timer=lambda item, settings: self.done.append(settings.timeout),
            pytest_timeout_cancel_timer=lambda item: self.done.append("cancelled"),
        )
