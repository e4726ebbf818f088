"""What pytest's hooks do in the controllers of a run on several: those of the first one, and those of the others."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from typing import Any, Final

import pytest

from pytest_elastic.cluster.arguments import arguments_of, distributes
from pytest_elastic.cluster.collection import collected_by_server
from pytest_elastic.cluster.first import (
    DifferentArgumentsError,
    DifferentTestsError,
    FirstController,
    MembersMissingError,
)
from pytest_elastic.cluster.following import LOST, follow, setting
from pytest_elastic.cluster.key import VARIABLE as KEY_VARIABLE
from pytest_elastic.cluster.key import cluster_key
from pytest_elastic.cluster.launcher_record import may_be_started_again, open_record
from pytest_elastic.cluster.launcher_variables import LauncherVariables
from pytest_elastic.cluster.meeting import MeetingError
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.membership import TAKEN, give_back, take
from pytest_elastic.cluster.packing import Packing
from pytest_elastic.cluster.record_option import PLUGIN as RECORD_PLUGIN
from pytest_elastic.cluster.record_option import open_record as open_file_record
from pytest_elastic.cluster.record_option import use_recorder
from pytest_elastic.cluster.termination import Termination
from pytest_elastic.controller.holding import run_of
from pytest_elastic.options import Given
from pytest_elastic.pid import own_pid

_STRAGGLERS: Final = 30.0


def join(config: pytest.Config, membership: Membership, given: dict[str, Given]) -> int | None:
    """Make a session one of several.

    Returns:
        The exit code of a controller that follows, when it has been released; ``None`` for the first one, whose session
        is yet to run.

    Raises:
        pytest.UsageError: It cannot be.
    """
    if distributes(config):
        raise pytest.UsageError(
            f"-n: got {config.option.numprocesses or 'workers'}, but this is one of {membership.size} pytest processes "
            f"of one session ({membership.launcher}), which pytest-xdist cannot divide; leave it out"
        )
    key = cluster_key(os.environ, given)
    _hide_key(config)
    take(membership)
    config.add_cleanup(lambda: give_back(membership))
    recorded = None
    if "record" not in given and may_be_started_again(os.environ, membership):
        recorded = open_record(os.environ, key, arguments_of(config))
    if membership.rank:
        if recorded is not None and recorded.exit_code is not None:
            return recorded.exit_code
        return follow(config, membership, key, given)
    if recorded is not None and (code := use_recorder(config, recorded)) is not None:
        return code
    if "record" in given and (code := _recorded_in_file(config, membership, key, given)) is not None:
        return code
    config.pluginmanager.register(FirstPlugin(membership, key, given), "elastic-cluster")
    return None


def _recorded_in_file(config: pytest.Config, membership: Membership, key: bytes, given: dict[str, Given]) -> int | None:
    """Open the file of ``--elastic-record``; where that ends this session, release the others first.

    Returns:
        The exit code of the session, if it was complete.
    """
    try:
        code = open_file_record(config)
    except pytest.UsageError:
        _release_all(config, membership, key, given, int(pytest.ExitCode.USAGE_ERROR))
        raise
    if code is not None:
        _release_all(config, membership, key, given, code)
    return code


def _release_all(config: pytest.Config, membership: Membership, key: bytes, given: dict[str, Given], code: int) -> None:
    """Have those that come be released at once; those that come later than that find nobody."""
    with contextlib.suppress(MeetingError):
        first = FirstController(
            membership,
            key,
            arguments=arguments_of(config),
            silence=setting(given, "node_timeout"),
            patience=min(setting(given, "join_timeout"), _STRAGGLERS),
            packs=False,
        )
        first.wait_for_stragglers()
        first.release(code)


def go_on_alone(config: pytest.Config, given: dict[str, Given]) -> int | None:
    """Have a session go on that torchrun has started again, with one process only.

    Returns:
        Its exit code, if it was complete.
    """
    if "record" in given or distributes(config) or not may_be_started_again(os.environ, None):
        return None
    recorded = open_record(os.environ, cluster_key(os.environ, given), arguments_of(config))
    os.environ[TAKEN] = f"{own_pid()} {os.environ['TORCHELASTIC_RUN_ID']}"  # sessions within this one have no record
    config.add_cleanup(_forget_taken)
    return use_recorder(config, recorded) if recorded is not None else None


def _hide_key(config: pytest.Config) -> None:
    """Keep the key from tests, and from what they print, until the session is over."""
    key = os.environ.pop(KEY_VARIABLE, None)
    if key is not None:
        config.add_cleanup(lambda: os.environ.__setitem__(KEY_VARIABLE, key))


def _forget_taken() -> None:
    os.environ.pop(TAKEN, None)


class FirstPlugin:
    """Waits for the others when the tests are collected, and releases them when everything is written."""

    def __init__(self, membership: Membership, key: bytes, given: dict[str, Given]) -> None:
        self._membership = membership
        self._key = key
        self._given = given
        self._first: FirstController | None = None
        self._session: pytest.Session | None = None
        self._variables: LauncherVariables | None = None
        self._alone = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Listen for the others."""
        self._session = session
        try:
            self._first = FirstController(
                self._membership,
                self._key,
                arguments=arguments_of(session.config),
                silence=setting(self._given, "node_timeout"),
                patience=setting(self._given, "join_timeout"),
                packs=setting(self._given, "pack"),
            )
        except MeetingError as error:
            raise pytest.UsageError(str(error)) from None
        run_of(session.config).cluster = self._first
        if self._first.packs and self._membership.in_place:
            raise pytest.UsageError(
                f"--elastic-pack: got true, but each of {self._membership.size} pytest processes gives room for "
                f"one rank ({self._membership.launcher}), and a test has all of them; leave it out"
            )

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Wait until the others have collected the same tests."""
        assert self._first is not None
        if sys.exc_info()[0] is not None:
            return  # pytest says what is wrong with its arguments
        run = run_of(session.config)
        if self._membership.in_place and not run.files:
            self._leave_alone(session.config)
            return
        reporter: Any = session.config.pluginmanager.getplugin("terminalreporter")

        def waits(for_whom: str) -> None:
            if reporter is not None:
                reporter.write_line(f"elastic: waiting for {for_whom} ...")

        try:
            order = run.session_order(None)
            self._first.wait_for_all(run.preload_order(), order, lambda: collected_by_server(run, order), waits)
        except (MembersMissingError, DifferentArgumentsError) as error:
            raise pytest.UsageError(f"elastic: {error}") from None
        except DifferentTestsError as error:
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(str(error))
            raise session.Interrupted("the nodes have not collected the same tests") from None
        self._variables = LauncherVariables()
        self._first.begin()
        if self._first.packs:
            run.packing = Packing(run, session.items)
        if reporter is not None:
            reporter.write_line(self._first.describe())

    def _leave_alone(self, config: pytest.Config) -> None:
        """Have each pytest process of a world run its own session: none of the tests is ours."""
        assert self._first is not None
        run_of(config).cluster = None
        if config.pluginmanager.hasplugin(RECORD_PLUGIN):
            config.pluginmanager.unregister(name=RECORD_PLUGIN)
        self._first.leave_alone()
        self._alone = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Report before a launcher ends this process."""
        assert self._first is not None
        if self._alone:
            return (yield)

        def stop_waiting() -> None:
            # Who has asked for the end brings no node back; a test that has not begun is left to another session.
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)

        self._first.while_waiting = stop_waiting
        with Termination(session, self._first.has_lost).in_force():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_unconfigure(self) -> Generator[None, None, None]:
        """Release the others: all has been written, and the end is recorded."""
        try:
            yield
        finally:
            if self._first is not None:
                status = self._session.exitstatus if self._session is not None else LOST
                first, self._first = self._first, None
                first.release(int(status))
            if self._variables is not None:
                self._variables.put_back()
