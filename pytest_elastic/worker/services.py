"""What connects a rank's pytest session with the controller: fixtures that are there, and word of how the test goes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import compat
from pytest_elastic.channel import Outbox
from pytest_elastic.controller_fixtures import kind_of, named_in_ini
from pytest_elastic.messages import RankId
from pytest_elastic.report.describe import one_line
from pytest_elastic.worker.exchange import EXCHANGE, Exchange
from pytest_elastic.worker.failure import text_of, type_name


def leave_to_controller(session: pytest.Session) -> None:
    """Have the controller's fixtures come from there, in a session that ranks use; what they request is not set up."""
    named = named_in_ini(session.config)
    names = set()
    for definition in compat.fixture_definitions(session):
        kind = kind_of(definition, named)
        if kind is not None:
            names.add(definition.argname)
            compat.redefine(definition, argnames=("request",), function=_fetch(definition, factory=kind == "factory"))
    for item in session.items:
        if not names.isdisjoint(getattr(item, "fixturenames", ())):
            compat.prune(item)


def _fetch(definition: Any, *, factory: bool) -> Callable[[pytest.FixtureRequest], Any]:
    # Errors of pytest's name a fixture by its function's name, place and signature: the user's, not this one's.
    @functools.wraps(definition.func, updated=())
    def fetch(request: pytest.FixtureRequest) -> Any:
        __tracebackhide__ = True
        exchange = request.config.stash[EXCHANGE]
        level = compat.level_of(request, definition)
        get = exchange.factory if factory else exchange.fixture
        return get(definition.argname, level)

    return fetch


def begin_test(config: pytest.Config, basetemp: Path) -> None:
    """Begin anew with what is counted for each test.

    Args:
        config: The session.
        basetemp: Directory in which the ranks of the test have their temporary ones.
    """
    config.stash[EXCHANGE].begin_test(basetemp / "shared")


class Progress:
    """Tells the controller when this rank's set-up and call are over: others may wait for a call of its."""

    _exchange: Exchange

    def __init__(self) -> None:
        self._in_phase = False

    def bind(self, config: pytest.Config, me: RankId, outbox: Outbox, hold: Path) -> None:
        """Connect a rank's session with the controller, before its first test runs."""
        self._exchange = config.stash[EXCHANGE] = Exchange(me, outbox, hold)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Take note of the phase."""
        __tracebackhide__ = True
        return (yield from self._phase())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """Take note of the phase."""
        __tracebackhide__ = True
        return (yield from self._phase())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        """Take note of the phase; calls in it are counted anew."""
        __tracebackhide__ = True
        self._exchange.period = "teardown"
        return (yield from self._phase())

    def _phase(self) -> Generator[None, None, None]:
        __tracebackhide__ = True
        self._in_phase = True
        try:
            return (yield)
        finally:
            self._in_phase = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell that the test is over."""
        # Within a phase the report is that of a subtest, after which the test goes on.
        if not self._in_phase and call.when in ("setup", "call"):
            if call.excinfo is not None:
                self._exchange.over(_how(call.excinfo.value))
            elif call.when == "call":
                self._exchange.over("passed")
        return (yield)


def _how(error: BaseException) -> str:
    if isinstance(error, pytest.skip.Exception):
        return f"skipped ({error.msg})" if error.msg else "skipped"
    return f"failed: {one_line(type_name(error), text_of(error))}"
