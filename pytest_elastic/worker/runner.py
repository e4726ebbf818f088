"""The plugin by which a rank's pytest runs the test and tells of it, each thing the moment it exists."""

from __future__ import annotations

import contextlib
import ctypes
import pickle
import sys
import unittest
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import clock, compat
from pytest_elastic.channel import Outbox
from pytest_elastic.messages import RankCaught, RankLogged, RankReport, RankWarned
from pytest_elastic.worker.failure import pickled, place_of, text_of, traceback_of_the_work, type_name
from pytest_elastic.worker.group import DefaultGroup
from pytest_elastic.worker.identity import Identity
from pytest_elastic.worker.measuring import Measurement
from pytest_elastic.worker.stopping import RankStopped, Stop

_EXPECTED = (pytest.skip.Exception, pytest.xfail.Exception, unittest.SkipTest)


class GroupBeforeFixtures:
    """Makes the process group before the fixtures, within what other plugins wrap around the phase.

    Attributes:
        make: Makes the group.
    """

    def __init__(self) -> None:
        self.make: Callable[[], object] = lambda: None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Make the group."""
        __tracebackhide__ = True
        self.make()


class _NextTest(pytest.Item):
    """Stands for the next test of this rank, of which only is known what it shares with the one that runs."""

    runner: ItemRunner

    def listchain(self) -> list[Any]:
        """Return what is to stay set up; nothing does in a rank that ends because it has failed."""
        return [] if self.runner.failed else super().listchain()

    def runtest(self) -> None:
        """Do nothing: it is never run."""


class ItemRunner:
    """Runs the phases of tests, with the process group around them, and ships the reports.

    Attributes:
        failed: A report was a failure.
        kept: How many of the collectors around the test stay set up after it.
        session: The session of the test, once it has begun.
    """

    _me: Identity
    _outbox: Outbox
    _group: DefaultGroup
    _stop: Stop
    _measurement: Measurement

    def __init__(self) -> None:
        self.failed = False
        self.kept = 0
        self._stopped = False
        self._in_phase = False
        self.session: pytest.Session | None = None
        self._caught: BaseException | None = None
        self._caught_ns = 0

    def bind(self, me: Identity, outbox: Outbox, group: DefaultGroup, stop: Stop, measurement: Measurement) -> None:
        """Make this the runner of a rank.

        Args:
            me: Which rank it is.
            outbox: Its connection.
            group: Its default process group.
            stop: The wish to end it.
            measurement: What it executes, if that is measured.
        """
        self._me, self._outbox, self._group, self._stop = me, outbox, group, stop
        self._measurement = measurement

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        """Run the three phases; logstart and logfinish are the controller's."""
        self.session = item.session
        compat.runtestprotocol(item, log=True, nextitem=self._next_after(item, self.kept))
        return True

    def tear_down_to(self, item: pytest.Item, kept: int) -> None:
        """Tear down all but some of the collectors around a test that is over.

        Raises:
            BaseException: What a fixture raises.
        """
        compat.tear_down_for(item.session, self._next_after(item, kept))

    def _next_after(self, item: pytest.Item, kept: int) -> pytest.Item | None:
        if kept == 0:
            return None
        parent: Any = item.listchain()[kept - 1]
        following = _NextTest.from_parent(parent, name="following")
        following.runner = self
        return following

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Let the fixtures be stopped."""
        __tracebackhide__ = True
        with self._phase(item, "setup"), self._stop.possible():
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Let the test be stopped."""
        __tracebackhide__ = True
        with self._phase(item, "call"), self._stop.possible():
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """End the process group after the fixtures, unless it is kept; after a failure it ends with the process."""
        __tracebackhide__ = True
        with self._phase(item, "teardown"):
            try:
                yield
            finally:
                if not self.failed and self.kept == 0:
                    self._group.end()

    @contextmanager
    def _phase(self, item: pytest.Item, when: str) -> Iterator[None]:
        self._in_phase = True
        self._measurement.begin_phase(item, when)
        try:
            yield
        finally:
            self._measurement.end_phase()
            self._in_phase = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell of a failure before its report, which takes a while to make."""
        caught = self._take(call)
        self._caught_ns = clock.monotonic_ns()
        # A mark that the test applied to itself: the report is going to say that this was expected.
        expected = isinstance(caught, _EXPECTED) or item.get_closest_marker("xfail") is not None
        if caught is not None and not self._stopped and not expected:
            self._outbox.send(
                RankCaught(
                    id=self._me.id,
                    time_ns=self._caught_ns,
                    when=call.when,
                    type=type_name(caught),
                    message=text_of(caught),
                    place=place_of(caught),
                    traceback=traceback_of_the_work(caught),
                )
            )
        report = yield
        self._take(call)  # the exception of a unittest method is put there by pytest's own implementation
        return report

    def _take(self, call: pytest.CallInfo[None]) -> BaseException | None:
        self._caught = call.excinfo.value if call.excinfo is not None else None
        # What is raised while a rank ends because it was told to is no failure of its own.
        told = self._caught is not None and self._stop.wanted and not self.failed
        self._stopped = self._stopped or isinstance(self._caught, RankStopped) or told
        return self._caught

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Ship a report."""
        caught, self._caught = self._caught, None
        time_ns = self._caught_ns if caught is not None else clock.monotonic_ns()
        if report.failed:
            self.failed = True
        data, dropped = _pickled_report(report)
        self._outbox.send(
            RankReport(
                id=self._me.id,
                time_ns=time_ns,
                when=str(report.when),
                outcome=report.outcome,
                written=written_so_far(self._me.directory),
                report=data,
                sections=bool(report.sections),
                dropped=dropped,
                exception=pickled(caught) if caught is not None and not self._stopped else None,
                type=type_name(caught) if caught is not None else "",
                place=place_of(caught) if caught is not None else "",
                expected=getattr(report, "wasxfail", None),
                subtest=self._in_phase,
                stopped=self._stopped,
                should_stop=_text(self.session, "shouldstop"),
                should_fail=_text(self.session, "shouldfail"),
            )
        )
        if report.when == "call" and not self._in_phase:
            self._measurement.save()  # it may be killed while it waits for others in its teardown

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str) -> None:
        """Ship a warning."""
        if when == "runtest":
            category = warning_message.category
            try:
                data = pickle.dumps(category)
            except Exception:  # noqa: BLE001 (a class of a function, or one with a metaclass of its own)
                data = None
            self._outbox.send(
                RankWarned(
                    id=self._me.id,
                    category=category.__qualname__,
                    pickled=data,
                    message=str(warning_message.message),
                    file=warning_message.filename,
                    line=warning_message.lineno,
                )
            )

    def show_live_log(self, text: str) -> None:
        """Have the controller show lines of pytest's live log."""
        self._outbox.send(RankLogged(id=self._me.id, text=text))


def _text(session: pytest.Session | None, name: str) -> str:
    wish = getattr(session, name, False)
    return str(wish) if wish else ""


def written_so_far(directory: Path) -> tuple[int, int]:
    """Return how much this rank has written to its logs by now."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):  # whatever the test has put or left there
            stream.flush()  # type: ignore[union-attr]
    ctypes.CDLL(None).fflush(None)
    # By their paths: a test may have closed or replaced the descriptors.
    return _size_of(directory / "stdout.log"), _size_of(directory / "stderr.log")


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # a test has removed what it found


def _pickled_report(report: pytest.TestReport) -> tuple[bytes, tuple[str, ...]]:
    """Pickle a report as pytest serialises it; what others hung on it and cannot be sent is dropped and named."""
    data = report._to_json()
    try:
        whole = pickle.dumps(data)
        pickle.loads(whole)
    except Exception:  # noqa: BLE001 (found out below whose fault it is)
        pass
    else:
        return whole, ()
    dropped: list[str] = []
    for name, value in list(data.items()):
        if name == "user_properties":
            data[name] = [pair for pair in value if _can_be_sent(f"record_property({pair[0]!r})", pair[1], dropped)]
        elif not _can_be_sent(f"report.{name}", value, dropped):
            data[name] = [] if isinstance(value, list) else None
            if name not in ("sections", "keywords"):
                del data[name]
    return pickle.dumps(data), tuple(dropped)


def _can_be_sent(name: str, value: Any, dropped: list[str]) -> bool:
    try:
        pickle.loads(pickle.dumps(value))  # some can be pickled, but not made again
    except Exception as error:  # noqa: BLE001 (whatever a foreign class does when it is pickled)
        dropped.append(f"{name} ({type(value).__qualname__}: {type(error).__name__})")
        return False
    return True
