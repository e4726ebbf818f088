"""Run one test in a rank, by pytest's own protocol, and ship each report the moment it exists."""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
import time
import unittest
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_elastic import compat
from pytest_elastic.channel import Outbox
from pytest_elastic.messages import ItemOrder, RankCaught, RankOrder, RankReport
from pytest_elastic.roles import RANK, ROLE
from pytest_elastic.worker import server_state
from pytest_elastic.worker.failure import describe, pickled, text_of, type_name
from pytest_elastic.worker.group import end_group, make_group
from pytest_elastic.worker.identity import Identity
from pytest_elastic.worker.session import find_item
from pytest_elastic.worker.stacks import write_stacks_to


def run_item(order: RankOrder, wanted: ItemOrder, me: Identity, outbox: Outbox) -> int:
    """Run the test; return the exit code of the rank."""
    try:
        config, item = _find(wanted, me)
        config.stash[ROLE] = "rank"
        config.stash[RANK] = me.id
        basetemp = Path(wanted.basetemp)
        basetemp.mkdir(mode=0o700, parents=True, exist_ok=True)
        compat.set_basetemp(config, basetemp / str(me.id.rank))
        compat.capture_nothing(config)
        _leave_xfail_to_controller(item)
        runner = _Runner(me, outbox, order.backend)
        config.pluginmanager.register(runner, "elastic-runner")
        config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        compat.stop_capture(config)
    except BaseException as error:  # noqa: BLE001 (pytest.exit, KeyboardInterrupt, an error of a plugin)
        outbox.send(describe(me.id, error, time_ns=time.monotonic_ns(), how="raised", skip=0))
        return 1
    return 1 if runner.failed else 0


def _find(wanted: ItemOrder, me: Identity) -> tuple[pytest.Config, pytest.Item]:
    state = server_state.state
    usable = state is not None and state.session is not None and state.session.unsafe is None
    preloaded = state.session if state is not None and usable else None
    session, item = find_item(wanted, preloaded)
    if session is not preloaded:
        write_stacks_to(me.directory)  # pytest's own faulthandler plugin has taken them to standard error
    return session.config, item


def _leave_xfail_to_controller(item: pytest.Item) -> None:
    """Hide xfail marks: they are judged once, on what all ranks did."""
    everything = item.iter_markers_with_node

    def without_xfail(name: str | None = None) -> Iterator[Any]:
        return (pair for pair in everything(name) if pair[1].name != "xfail")

    item.iter_markers_with_node = without_xfail  # type: ignore[method-assign]


_SKIPS: Final = (pytest.skip.Exception, pytest.xfail.Exception, unittest.SkipTest)


class _Runner:
    """Runs the item's phases, with the process group around them, and ships the reports."""

    def __init__(self, me: Identity, outbox: Outbox, backend: str | None) -> None:
        self.failed = False
        self._me = me
        self._outbox = outbox
        self._backend = backend
        self._caught: BaseException | None = None
        self._caught_ns = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        compat.runtestprotocol(item, log=True, nextitem=None)
        return True

    # Innermost: what other plugins begin in the set-up they end in the teardown, also if there is no group.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        __tracebackhide__ = True
        make_group(self._backend)
        yield

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        __tracebackhide__ = True
        try:
            yield
        finally:
            if not self.failed:
                end_group(self._backend)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        self._caught = call.excinfo.value if call.excinfo is not None else None
        self._caught_ns = time.monotonic_ns()
        if self._caught is not None and not isinstance(self._caught, _SKIPS):
            self._outbox.send(
                RankCaught(
                    id=self._me.id,
                    time_ns=self._caught_ns,
                    when=call.when,
                    type=type_name(self._caught),
                    message=text_of(self._caught),
                )
            )
        report = yield
        # The exception of a unittest method is put there by pytest's own implementation.
        self._caught = call.excinfo.value if call.excinfo is not None else None
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        caught, self._caught = self._caught, None
        time_ns = self._caught_ns if caught is not None else time.monotonic_ns()
        if report.failed:
            self.failed = True
        data, dropped = _pickled_report(report)
        self._outbox.send(
            RankReport(
                id=self._me.id,
                time_ns=time_ns,
                when=str(report.when),
                outcome=report.outcome,
                written=_written(),
                report=data,
                dropped=dropped,
                exception=pickled(caught) if caught is not None else None,
                type=type_name(caught) if caught is not None else "",
                # A subtest's is of a class derived from the one of a phase.
                subtest=type(report) is not pytest.TestReport,
            )
        )


def _written() -> tuple[int, int]:
    """Return how much this rank has written to its logs by now."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ctypes.CDLL(None).fflush(None)
    return os.fstat(1).st_size, os.fstat(2).st_size


def _pickled_report(report: pytest.TestReport) -> tuple[bytes, tuple[str, ...]]:
    """Pickle a report as pytest serialises it; what others hung on it and cannot be sent is dropped and named."""
    data = report._to_json()
    dropped = []
    for name, value in list(data.items()):
        try:
            pickle.dumps(value)
        except Exception as error:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
            dropped.append(f"report.{name} ({type(value).__qualname__}: {type(error).__name__})")
            data[name] = [] if isinstance(value, list) else None
            if name not in ("sections", "user_properties", "keywords"):
                del data[name]
    return pickle.dumps(data), tuple(dropped)
