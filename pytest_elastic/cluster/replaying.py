"""Hooks of a session with a record: tests that are over are told again, and the others are run and recorded."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator
from typing import Any, Final, NamedTuple

import pytest

from pytest_elastic import compat
from pytest_elastic.cluster.record import MOST_BEGINNINGS, Event, Identity, Occurrence, Recorder
from pytest_elastic.cluster.sealing import plain, restored
from pytest_elastic.roles import OVER
from pytest_elastic.warning import ElasticWarning

_START: Final = "start"
_FINISH: Final = "finish"
_ENDED: Final = "the session ended {} times while this test ran"


class _Past(NamedTuple):
    """What happened in a test that is over.

    Attributes:
        happened: Reports, warnings, and marks where an attempt begins and ends, in order.
        failures: How many of its reports count for ``--maxfail``.
    """

    happened: list[Any]
    failures: int


class _Reported(NamedTuple):
    """A report as it was when it was made.

    Attributes:
        report: The report.
        failed_subtests: How many parts of the test had failed, as pytest counts them.
    """

    report: pytest.TestReport
    failed_subtests: int


class _Warned(NamedTuple):
    """A warning, as pytest hands it to plugins."""

    message: warnings.WarningMessage
    when: Any
    nodeid: str
    location: tuple[str, int, str] | None


class RecordedSession:
    """The plugin that does so, for one session.

    Args:
        recorder: The record, which this plugin closes at the end of the session.
        identity: What is known of this session.
    """

    def __init__(self, recorder: Recorder, identity: Identity) -> None:
        self.recorder = recorder
        self._identity = identity
        self._running: dict[Occurrence, list[Event] | None] = {}
        self._session: pytest.Session | None = None
        self._untold: list[str] = []
        self._opened = self._told = False

    def pytest_report_header(self) -> str | None:
        """Say how many tests are not going to be run."""
        count = len(self.recorder.finished)
        if not count:
            return None
        return f"record: {count} test{'' if count == 1 else 's'} finished before, in {self.recorder.place.name}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run the tests that are left, and tell the others in their places."""
        self._session = session
        errors_end_it = session.testsfailed and not session.config.option.continue_on_collection_errors
        if errors_end_it or session.config.option.collectonly:
            return None
        keys = keys_of(session.items)
        refusal = self.recorder.refusal(self._identity, keys)
        if refusal is not None:
            raise pytest.UsageError(refusal)
        self.recorder.open_session(self._identity, keys)
        self._opened = True
        pasts = [self._past(item, key) for item, key in zip(session.items, keys, strict=True)]
        for item, past in zip(session.items, pasts, strict=True):
            if past is not None:
                item.stash[OVER] = True
        for index, (item, key, past) in enumerate(zip(session.items, keys, pasts, strict=True)):
            if past is None:
                self._run(item, key, _next_that_runs(session, pasts, index))
            else:
                _tell(item, past)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Record a report as it comes: others change it while it is told."""
        self._add(report.nodeid, lambda: self._reported(report))
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Record the beginning of a test, or of another attempt."""
        self._add(nodeid, lambda: {"mark": _START})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Record the end of a test, or of an attempt."""
        self._add(nodeid, lambda: {"mark": _FINISH})

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        """Record a warning of a test."""
        self._add(nodeid, lambda: {"warning": plain(_portable(_Warned(warning_message, when, nodeid, location)))})

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Tell what could not be read or written, and see whether all reports can be written."""
        self._tell_losses(session)
        yield
        self._told = self._opened

    def _tell_losses(self, session: pytest.Session) -> None:
        recorder = self.recorder
        place = f"{recorder.place.source}: {recorder.place.name}"
        if recorder.damaged:
            entries = "an entry was" if recorder.damaged == 1 else f"{recorder.damaged} entries were"
            tell(session.config, f"{place}: {entries} not written by this run, or damaged, and ignored")
        for line in self._untold:
            tell(session.config, f"{place}: {line}")
        if recorder.lost is not None:
            tell(session.config, f"{recorder.lost}; what came after that is not recorded")

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Record the exit code, after all reports have been written."""
        if self._told and self._session is not None:
            self.recorder.close(int(self._session.exitstatus))
        else:
            self.recorder.place.close()

    def _run(self, item: pytest.Item, key: Occurrence, nextitem: pytest.Item | None) -> None:
        self.recorder.begin(key)
        self._running[key] = []
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        except (KeyboardInterrupt, pytest.exit.Exception):
            self.recorder.leave(key)
            raise
        finally:
            events = self._running.pop(key)
        if events is None:
            self.recorder.leave(key)
        else:
            self.recorder.finish(key, events)

    def _add(self, nodeid: str, event: Any) -> None:
        """Add an event to the test that it is one of: that with its id, or else the one that began last."""
        key = next((key for key in self._running if key.nodeid == nodeid), next(reversed(self._running), None))
        events = self._running.get(key) if key is not None else None
        if key is None or events is None:
            return
        try:
            events.append(event())
        except Exception as error:  # noqa: BLE001 (plugins attach what they like to reports)
            self._running[key] = None
            self._untold.append(f"cannot record {nodeid}, which runs again where the session is started again: {error}")

    def _reported(self, report: pytest.TestReport) -> Event:
        assert self._session is not None
        config = self._session.config
        data = config.hook.pytest_report_to_serializable(config=config, report=report)
        if data is None:
            raise TypeError(f"nobody knows how to keep a {type(report).__name__}")
        return {"report": plain(data), "failed_subtests": compat.failed_subtests(config, report)}

    def _past(self, item: pytest.Item, key: Occurrence) -> _Past | None:
        """Return what is to be told of a test instead of running it, or ``None`` if it is to be run."""
        beginnings = self.recorder.unfinished.get(key, 0)
        events = self.recorder.finished.get(key)
        if events is None and beginnings >= MOST_BEGINNINGS:
            return _failed(item, _ENDED.format(beginnings))
        if events is None:
            return None
        try:
            happened = [_happened(item.config, event) for event in events]
        except Exception as error:  # noqa: BLE001 (hooks of plugins make reports of it)
            self._untold.append(f"cannot read what became of {key.nodeid}, which ran again: {error}")
            return None
        return _Past(happened, sum(_counts(part) for part in happened))


def keys_of(items: list[pytest.Item]) -> list[Occurrence]:
    """Name each test of a session."""
    seen: dict[str, int] = {}
    keys = []
    for item in items:
        nth = seen.get(item.nodeid, 0)
        seen[item.nodeid] = nth + 1
        keys.append(Occurrence(item.nodeid, nth))
    return keys


def tell(config: pytest.Config, text: str) -> None:
    """Have the summary of warnings tell something of the whole session."""
    try:
        config.issue_config_time_warning(ElasticWarning(text), stacklevel=2)
    except ElasticWarning as warning:
        # An error, if it were up to the filters; but no test is to blame.
        message = warnings.WarningMessage(warning, ElasticWarning, __file__, 0)
        config.hook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": message, "nodeid": "", "when": "config", "location": None}
        )


def _next_that_runs(session: pytest.Session, pasts: list[_Past | None], index: int) -> pytest.Item | None:
    """Return the test for which the one at ``index`` leaves fixtures set up: the next that is run here.

    None, if the session may end on the way there: then everything is torn down while a test can still be blamed.
    """
    most = session.config.getvalue("maxfail")
    failures = session.testsfailed + 1  # should it fail
    for item, past in zip(session.items[index + 1 :], pasts[index + 1 :], strict=True):
        if past is None:
            return item
        failures += past.failures
        if most and past.failures and failures >= most:
            return None
    return None


def _tell(item: pytest.Item, past: _Past) -> None:
    """Call the hooks that tell others how a test went."""
    for part in past.happened:
        if isinstance(part, _Warned):
            kwargs = {
                "warning_message": part.message,
                "when": part.when,
                "nodeid": part.nodeid,
                "location": part.location,
            }
            item.ihook.pytest_warning_recorded.call_historic(kwargs=kwargs)
        elif part == _START:
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        elif part == _FINISH:
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        else:
            compat.set_failed_subtests(item.config, part.report, part.failed_subtests)
            if hasattr(part.report, "rerun"):  # --fail-on-flaky looks at how often pytest-rerunfailures ran it
                item.execution_count = part.report.rerun + 1  # type: ignore[attr-defined]
            item.ihook.pytest_runtest_logreport(report=part.report)
            if part.report.outcome == "rerun":
                compat.take_back_subtests(item.session, part.report.nodeid)


def _happened(config: pytest.Config, event: Event) -> Any:
    if "mark" in event:
        return event["mark"]
    if "warning" in event:
        return _warned(restored(event["warning"]))
    data = restored(event["report"])
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    if report is None:
        raise TypeError("nobody knows how to read this report")
    compat.mend_subtest(report, data)
    return _Reported(report, event["failed_subtests"])


def _counts(part: Any) -> bool:
    return isinstance(part, _Reported) and part.report.failed and not hasattr(part.report, "wasxfail")


def _failed(item: pytest.Item, message: str) -> _Past:
    """Make the reports of a test that is not run and fails."""
    reports = []
    for when in ("setup", "call", "teardown"):
        failed = when == "call"
        report = pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome="failed" if failed else "passed",
            longrepr=message if failed else None,
            when=when,
        )
        reports.append(_Reported(report, 0))
    return _Past([_START, *reports, _FINISH], 1)


def _portable(warned: _Warned) -> dict[str, Any]:
    message = warned.message
    return {
        "text": str(message.message),
        "category": message.category.__name__,
        "module": message.category.__module__,
        "filename": message.filename,
        "lineno": message.lineno,
        "when": warned.when,
        "nodeid": warned.nodeid,
        "location": warned.location,
    }


def _warned(data: dict[str, Any]) -> _Warned:
    """Make a warning again, of its class if that is loaded: a record has nothing imported."""
    category = getattr(sys.modules.get(data["module"]), data["category"], None)
    try:
        warning = category(data["text"])  # type: ignore[misc]
        if not isinstance(warning, Warning):
            raise TypeError("no warning")
    except Exception:  # noqa: BLE001 (a class of users may take other arguments)
        warning = type(data["category"], (Warning,), {})(data["text"])
    message = warnings.WarningMessage(warning, type(warning), data["filename"], data["lineno"])
    return _Warned(message, data["when"], data["nodeid"], data["location"])
