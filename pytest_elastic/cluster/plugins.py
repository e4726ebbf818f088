"""What pytest's hooks do in the controllers of a run on several: those of the first one, and those of the others."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final, TextIO

import pytest

from pytest_elastic import kernel
from pytest_elastic.cluster.first import DifferentTestsError, FirstController, MembersMissingError
from pytest_elastic.cluster.follower import FirstLostError, Follower, RefusedError
from pytest_elastic.cluster.key import cluster_key
from pytest_elastic.cluster.meeting import MeetingError
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.membership import give_back, take
from pytest_elastic.controller.holding import run_of
from pytest_elastic.options import SETTINGS, Given

_LOST: Final = int(pytest.ExitCode.INTERNAL_ERROR)
"""Exit code of a controller whose first one is gone."""


def join(config: pytest.Config, membership: Membership, given: dict[str, Given]) -> None:
    """Make a session one of several.

    Raises:
        pytest.UsageError: It cannot be.
    """
    if getattr(config.option, "tx", None) or getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(
            f"-n: got {config.option.numprocesses or 'workers'}, but this is one of {membership.size} pytest processes "
            f"of one session ({membership.launcher}), which pytest-xdist cannot divide; leave it out"
        )
    key = cluster_key(os.environ, given)
    take(membership)
    config.add_cleanup(lambda: give_back(membership))
    plugin = FirstPlugin if membership.rank == 0 else FollowerPlugin
    if membership.rank:
        # Reporters and those that write files leave that to the first one, as they do under pytest-xdist.
        config.workerinput = {  # type: ignore[attr-defined]
            "workerid": f"node{membership.rank}",
            "workercount": membership.size,
            "testrunuid": membership.run_id,
            "mainargv": list(sys.argv),
        }
        config.option.basetemp = None  # of the first one, which empties it
    config.pluginmanager.register(plugin(config, membership, key, given), "elastic-cluster")


def _setting(given: dict[str, Given], name: str) -> Any:
    return given[name].value if name in given else SETTINGS[name].default


def _node_ids(session: pytest.Session) -> tuple[str, ...]:
    return tuple(sorted(item.nodeid for item in session.items))


class FirstPlugin:
    """Waits for the others when the tests are collected, and releases them when everything is written."""

    def __init__(self, config: pytest.Config, membership: Membership, key: bytes, given: dict[str, Given]) -> None:
        self._config = config
        self._membership = membership
        self._key = key
        self._given = given
        self._first: FirstController | None = None
        self._session: pytest.Session | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Listen for the others."""
        self._session = session
        try:
            self._first = FirstController(
                self._membership,
                self._key,
                run=self._membership.run_id,
                silence=_setting(self._given, "node_timeout"),
                patience=_setting(self._given, "join_timeout"),
            )
        except MeetingError as error:
            raise pytest.UsageError(str(error)) from None
        run_of(session.config).cluster = self._first

    def pytest_report_header(self) -> str:
        """Say that there are several."""
        me = self._membership
        what = f"{me.size} ranks in place" if me.in_place else f"{me.size} nodes"
        return f"elastic: {what} ({me.launcher})"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Wait until the others have collected the same tests."""
        assert self._first is not None
        try:
            self._first.wait_for_all(_node_ids(session))
        except MembersMissingError as error:
            raise pytest.UsageError(f"elastic: {error}") from None
        except DifferentTestsError as error:
            reporter: Any = session.config.pluginmanager.getplugin("terminalreporter")
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(str(error))
            raise session.Interrupted("the nodes have not collected the same tests") from None

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Release the others: all has been written."""
        if self._first is not None:
            status = self._session.exitstatus if self._session is not None else _LOST
            first, self._first = self._first, None
            first.release(int(status))


class FollowerPlugin:
    """Collects, serves, and leaves with the first controller's exit code; nothing is printed."""

    def __init__(self, config: pytest.Config, membership: Membership, key: bytes, given: dict[str, Given]) -> None:
        self._config = config
        self._membership = membership
        self._given = given
        self._owner = kernel.own_pid()
        self._log: TextIO = io.StringIO()
        self._exitcode: int | None = None
        self._trouble: list[str] = []
        self._follower = Follower(
            membership,
            key,
            silence=_setting(given, "node_timeout"),
            patience=_setting(given, "join_timeout"),
            log=lambda line: print(f"elastic: {line}", file=self._log, flush=True),
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Write nothing to the terminal, and find the first controller."""
        directory = self._given.get("log_dir")
        if directory is not None:
            path = Path(session.config.invocation_params.dir, str(directory.value))
            with contextlib.suppress(OSError):
                path.mkdir(parents=True, exist_ok=True)
                self._log = (path / f"node-{self._membership.rank}.log").open("a", errors="backslashreplace")
        reporter: Any = session.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter._tw._file = self._log
        try:
            self._follower.join()
        except (MeetingError, RefusedError) as error:
            text = str(error)
            raise pytest.UsageError(text if text.startswith("elastic: ") else f"elastic: {text}") from None

    def pytest_report_header(self) -> str:
        """Say which one this is, in its log."""
        me = self._membership
        return f"elastic: {me} of {me.size} ({me.launcher}), {socket.gethostname()}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take note of what could not be collected."""
        if report.failed:
            self._trouble.append(f"{report.nodeid}: {report.longreprtext}")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell what was collected."""
        self._follower.collected(_node_ids(session), "")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Serve the first controller instead of running tests."""
        try:
            self._exitcode = self._follower.serve(run_of(session.config))
        except FirstLostError as error:
            self._exitcode = _LOST
            print(f"elastic: {self._membership}: {error}", file=sys.__stderr__, flush=True)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Leave as the first controller does."""
        if kernel.own_pid() != self._owner:
            return
        if self._exitcode is None and self._trouble:
            # The others are told why before this one ends.
            self._follower.collected(_node_ids(session), "\n".join(self._trouble))
        self._follower.close()
        if self._exitcode is not None:
            session.exitstatus = self._exitcode

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Close the log; what went wrong here is shown where there is none."""
        if self._exitcode is None and isinstance(self._log, io.StringIO) and sys.__stderr__ is not None:
            sys.__stderr__.write(self._log.getvalue())
        self._log.close()
