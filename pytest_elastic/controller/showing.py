"""What a session shows of its launches, in files and at its end, and how that is gathered from reports.

A launch travels on the last report of its test, so that the main process of pytest-xdist has it, and a session that
goes on where another was ended.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import pytest_elastic
from pytest_elastic import clock
from pytest_elastic.controller.properties import culprit_of
from pytest_elastic.fixtures import is_xdist_worker
from pytest_elastic.options import Given
from pytest_elastic.report.happened import Told, make_timeline
from pytest_elastic.report.records import LaunchRecord
from pytest_elastic.report.seen import LAUNCHES, SeenSession, SeenTest, counts_of
from pytest_elastic.report.timeline import from_data, to_data
from pytest_elastic.warning import ElasticWarning

if TYPE_CHECKING:
    from pytest_elastic.controller.page_server import PageServer
    from pytest_elastic.report.judgement import Judgement
    from pytest_elastic.report.verdict import Verdict

_ANNOTATES: Final = "pytest_github_actions_annotate_failures"
"""A plugin that annotates every failure, ours too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is to be shown.

    Attributes:
        page: Where the page goes, or ``None``.
        serve: The page is served while the session goes on.
        trace: Where the trace goes, or ``None``.
        durations: Of how many launches to tell where their time went: 0 of all, ``None`` of none.
        annotations: GitHub Actions reads what is printed.
        summary: File of the summary of the step, or ``None``.
        pictures: pytest-html writes a report, which gets a picture of each launch.
    """

    page: Path | None
    serve: bool
    trace: Path | None
    durations: int | None
    annotations: bool
    summary: Path | None
    pictures: bool


WANTED: Final[pytest.StashKey[Wanted]] = pytest.StashKey()
_KEPT: Final[pytest.StashKey[dict[Path, dict[str, Any]]]] = pytest.StashKey()
"""In the stash of a test: its launches, by the directory of their output."""


def begin(config: pytest.Config, given: Mapping[str, Given], environ: Mapping[str, str]) -> None:
    """Take note of what is to be shown, unless that is done, and gather it from now on where reports come together.

    Raises:
        pytest.UsageError: It cannot be written, or what makes it is not installed.
    """
    if WANTED in config.stash:
        return
    directory = config.invocation_params.dir
    paths: dict[str, Path | None] = dict.fromkeys(("report", "trace"))
    for name in paths:
        if name in given and given[name].value is not None:
            paths[name] = directory / given[name].value
    summary = environ.get("GITHUB_STEP_SUMMARY")
    wanted = config.stash[WANTED] = Wanted(
        page=paths["report"],
        serve="serve" in given and given["serve"].value,
        trace=paths["trace"],
        durations=given["durations"].value if "durations" in given else None,
        annotations=environ.get("GITHUB_ACTIONS") == "true" and not config.pluginmanager.hasplugin(_ANNOTATES),
        summary=Path(summary) if summary else None,
        pictures=bool(config.getoption("htmlpath", None)),
    )
    if is_xdist_worker(config):
        return
    for name, path in paths.items():
        if path is not None and path.is_dir():
            raise pytest.UsageError(f"{given[name].source}: {given[name].value!r} is a directory, expected a file")
    page, trace = paths["report"], paths["trace"]
    if page is not None and trace is not None and page.resolve() == trace.resolve():
        raise pytest.UsageError(
            f"{given['report'].source} and {given['trace'].source}: got {given['trace'].value!r} for both, "
            "expected two files"
        )
    for name in ("report", "serve"):
        if name in given and given[name].value and importlib.util.find_spec("jinja2") is None:
            raise pytest.UsageError(
                f'{given[name].source}: needs Jinja2, which is not installed: pip install "pytest-elastic[report]"'
            )
    config.pluginmanager.register(Showing(config, wanted), "elastic-showing")


# --- in the process that runs a test ---


def keep_test(item: pytest.Item, record: LaunchRecord, judgements: tuple[Judgement, ...]) -> None:
    """Keep what happened in the launch of a test that ran on ranks, while the files of its ranks are there."""
    if WANTED in item.config.stash:
        _keep(item, record, _told_of(judgements, record))


def keep_launch(item: pytest.Item, record: LaunchRecord, verdict: Verdict) -> None:
    """Keep what happened in one of the launches of a test."""
    if WANTED in item.config.stash:
        first = next((failure for failure in verdict.result.failures if not failure.collateral), None)
        told = Told(
            verdict=str(verdict.error).partition("\n")[0] if verdict.error is not None else "",
            culprit=culprit_of(verdict),
            failed=verdict.error is not None,
            traceback=first.traceback if first is not None else "",
        )
        _keep(item, record, told)


def _keep(item: pytest.Item, record: LaunchRecord, told: Told) -> None:
    wanted = item.config.stash[WANTED]
    told = replace(told, output=wanted.page is not None or wanted.serve)  # nothing else shows it
    try:
        item.stash.setdefault(_KEPT, {})[record.directory] = to_data(make_timeline(record, told))
    except Exception as error:  # noqa: BLE001 (whatever it is: what is shown of a test does not change its verdict)
        item.warn(ElasticWarning(f"what its ranks did cannot be shown: {type(error).__name__}: {error}"))


def put(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put the launches of a test on its last report."""
    if report.when == "teardown" and _KEPT in item.stash:
        launches = vars(report)[LAUNCHES] = list(item.stash[_KEPT].values())
        del item.stash[_KEPT]
        if item.config.stash[WANTED].pictures:
            from pytest_elastic.report.picture import picture

            extras = [_extra(picture(from_data(launch))) for launch in launches]
            vars(report)["extras"] = [*getattr(report, "extras", ()), *extras]


def _told_of(judgements: tuple[Judgement, ...], record: LaunchRecord) -> Told:
    """Return what the judgements of a test say."""
    from pytest_elastic.report.merge import verdict_of

    bad = next((each for each in judgements if each.kind in ("failed", "disagreed", "ended")), None)
    if bad is None:
        return Told()
    if bad.culprit is not None:
        verdict = verdict_of(bad.culprit, record.last_world(), record, again=False)
        return Told(verdict=verdict, culprit=bad.culprit.rank.id.rank, failed=True)
    return Told(verdict=bad.message.partition("\n")[0], failed=True)


def _extra(html: str) -> dict[str, str | None]:
    """Return what pytest-html shows in the row of a test."""
    return {"name": "ranks", "format_type": "html", "content": html, "mime_type": None, "extension": None}


# --- where reports come together ---


class Showing:
    """The plugin that gathers tests, and shows them at the end.

    Args:
        config: pytest's configuration.
        wanted: What is to be shown.
    """

    def __init__(self, config: pytest.Config, wanted: Wanted) -> None:
        self._config = config
        self._wanted = wanted
        self._seen = SeenSession()
        self._begin = clock.monotonic()
        self._lines: list[tuple[str, bool]] = []
        self._taking = threading.Lock()
        """Held while something is taken, and while the page is made of it, which another thread may do."""
        self._running: dict[str, None] = {}
        self._server: PageServer | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """Serve the page, if that is wanted."""
        if self._wanted.serve:
            from pytest_elastic.controller.page_server import PageServer

            self._server = PageServer(lambda: self._page(live=True), self._state)
            reporter = self._config.pluginmanager.getplugin("terminalreporter")
            line = f"elastic page: {self._server.url}"
            if reporter is not None:
                reporter.write_line(line)
                reporter.flush()  # whoever reads a pipe wants to look now
            else:
                capture = self._config.pluginmanager.getplugin("capturemanager")
                with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
                    print(line, file=sys.stderr, flush=True)  # without it nobody would know where the page is

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Take note that a test begins."""
        with self._taking:
            self._running[nodeid] = None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Take note that a test is over."""
        with self._taking:
            self._running.pop(nodeid, None)

    @pytest.hookimpl(trylast=True)  # others may still change it
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a report."""
        status: Any = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        with self._taking:
            self._seen.add(report, str(status[0]) if status else report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take what could not be collected."""
        if report.failed:
            with self._taking:
                self._seen.add_error(report)

    def pytest_unconfigure(self) -> None:
        """Serve the page no longer."""
        if self._server is not None:
            self._server.close()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write what goes into files."""
        wanted = self._wanted
        if wanted.page is not None:
            self._write("report", wanted.page, lambda: self._page(live=False))
        if wanted.trace is not None:
            self._write("trace", wanted.trace, self._trace)
        if wanted.summary is not None and any(test.launches for test in self._seen.tests):
            self._append_summary(wanted.summary)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the files are, and where the time went."""
        if self._wanted.durations is not None:
            self._show_durations(terminalreporter, self._wanted.durations)
        for line, good in self._lines:
            terminalreporter.write_line(line, **({} if good else {"red": True}))
        if self._wanted.annotations:
            self._annotate(terminalreporter)

    def _write(self, what: str, path: Path, make: Any) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(make(), encoding="utf-8", errors="replace")
        except Exception as error:  # noqa: BLE001 (the session is over, and what is left of it goes on)
            why = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
            self._lines.append((f"ERROR elastic {what}: cannot write {path}: {why}", False))
        else:
            self._lines.append((f"elastic {what}: {path}", True))

    def _state(self) -> dict[str, object]:
        """Return how far the session is, for the page that is served."""
        with self._taking:
            return {"tests": len(self._done()), "running": list(self._running)}

    def _done(self) -> list[SeenTest]:
        """Return the tests that are over: of others the page would say that they have passed."""
        return [test for test in self._seen.tests if test.nodeid not in self._running]

    def _page(self, *, live: bool) -> str:
        from pytest_elastic.report.page import PageHead, make_page

        versions = [f"pytest {pytest.__version__}", f"pytest-elastic {pytest_elastic.__version__}"]
        head = PageHead(
            title=self._config.rootpath.name or "tests",
            seconds=clock.monotonic() - self._begin,
            when=datetime.fromtimestamp(clock.wall()).astimezone().isoformat(sep=" ", timespec="seconds"),
            made_of=", ".join(versions),
            version=pytest_elastic.__version__,
            live=live,
        )
        with self._taking:
            tests = self._done()
            return make_page(head, tests, counts_of(tests))

    def _trace(self) -> str:
        from pytest_elastic.report.trace import make_trace

        return json.dumps(make_trace(self._seen.tests), separators=(",", ":"))

    def _append_summary(self, path: Path) -> None:
        from pytest_elastic.report.github import summary

        try:
            with path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(summary(self._seen.tests, counts_of(self._seen.tests)))
        except OSError as error:
            self._lines.append((f"ERROR elastic: GITHUB_STEP_SUMMARY: cannot write {path}: {error.strerror}", False))

    def _show_durations(self, reporter: Any, most: int) -> None:
        from pytest_elastic.report.durations import table_of

        launches = [(test.nodeid, from_data(data)) for test in self._seen.tests for data in test.launches]
        if launches:
            count = min(most, len(launches)) if most else len(launches)
            reporter.write_sep("=", f"where the time of the {count} slowest launches went" if count > 1 else _ONE)
            for line in table_of(launches, most):
                reporter.write_line(line)

    def _annotate(self, reporter: Any) -> None:
        from pytest_elastic.report.github import annotation

        for test in self._seen.tests:
            if test.bad and test.launches:
                reporter.write_line(annotation(test, os.environ, self._config.rootpath))


_ONE: Final = "where the time of the slowest launch went"
