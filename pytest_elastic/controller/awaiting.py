"""Waiting for something to happen in a launch that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pytest_elastic.controller.launch import Launch
from pytest_elastic.errors import ElasticError, ElasticTimeoutError
from pytest_elastic.one_line import one_line
from pytest_elastic.options import is_seconds
from pytest_elastic.report.verdict import judge, not_preloaded
from pytest_elastic.spec import ArgumentError

T = TypeVar("T")


def check_timeout(source: str, timeout: object) -> None:
    """Refuse what is no number of seconds.

    Raises:
        ArgumentError: It says what is allowed.
    """
    __tracebackhide__ = True
    if timeout is not None and not is_seconds(timeout):
        raise ArgumentError(f"{source}(timeout=): got {one_line(timeout)}, expected seconds > 0, or None")


def refuse_no_bool(source: str, value: object) -> None:
    """Refuse what is neither true nor false: ``None`` would check nothing, and the text ``"false"`` would.

    Raises:
        ArgumentError: It says what is allowed.
    """
    __tracebackhide__ = True
    if not isinstance(value, bool):
        raise ArgumentError(f"{source}: got {one_line(value)}, expected True or False")


def await_in(launch: Launch, what: str, found: Callable[[], T | None], timeout: float | None) -> T:
    """Wait until something is found, and return it.

    Args:
        launch: The launch in which it is to happen.
        what: What is waited for, for errors.
        found: Returns it, or ``None``; called whenever something has happened.
        timeout: Seconds to wait, or ``None`` to wait until the end of the launch.

    Raises:
        ElasticTimeoutError: It was not found by then; the launch goes on.
        ElasticError: The launch ended without it: its own error if it failed.
    """
    __tracebackhide__ = True
    values: list[T] = []

    def reached() -> bool:
        value = found() if not values else None
        if value is not None:
            values.append(value)
        return bool(values)

    if launch.wait_until(reached, timeout):
        return values[-1]
    if not launch.over:
        result = judge(launch.snapshot()).result
        number = len(launch.formed_world())
        told = "no world has formed" if not number else "1 rank runs" if number == 1 else f"{number} ranks run"
        text = f"waited {timeout:g} s for {what}; {told}, the launch goes on"
        raise ElasticTimeoutError(text, timeout=timeout or 0.0, stacks={}, result=result)
    record = launch.wait()
    if launch.broken is not None:
        raise ElasticError(not_preloaded(launch.broken))
    error = judge(record).error
    raise error if error is not None else ElasticError(f"the launch ended well, but had been waited for {what}")
