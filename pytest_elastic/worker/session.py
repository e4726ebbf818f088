"""The controller's pytest session once more: collected in the server, used by the ranks that it forks."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import compat
from pytest_elastic.messages import SessionOrder
from pytest_elastic.roles import ROLE
from pytest_elastic.worker.services import leave_to_controller

_SWITCHED_OFF: dict[str, Any] = {
    # What would destroy, double or hold up what is the controller's.
    "basetemp": None,
    "cacheclear": False,
    "cacheshow": None,
    "collectonly": False,
    "dist": "no",
    "durations": None,
    "failedfirst": False,
    "lf": False,
    "log_file": os.devnull,
    "looponfail": False,
    "maxfail": 0,
    "maxprocesses": None,
    "newfirst": False,
    "numprocesses": None,
    "pastebin": None,
    "stepwise": False,
    "stepwise_skip": False,
    "trace": False,
    "tx": [],
    "usepdb": False,
    "xmlpath": None,
}
_LEFT_OUT = ("_cov", "rerunfailures")
"""Plugins whose work is done once, in the controller."""


class CollectionError(Exception):
    """A test is not in the session that ranks have; its text says why."""


class _Collecting:
    """Watches what importing test files does to this process."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.unsafe: str | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        self.look(collector.nodeid or "conftest.py")
        if report.failed:
            self.failures[report.nodeid] = report.longreprtext
        return report

    def look(self, culprit: str) -> None:
        """Note the first module after whose import this process cannot be forked safely."""
        if self.unsafe is None:
            reason = why_unsafe()
            if reason is not None:
                self.unsafe = f"{culprit}: {reason}"


def why_unsafe() -> str | None:
    """Return why this process must not be forked: it has threads, or has touched an accelerator."""
    try:
        threads = len(os.listdir("/proc/self/task"))
    except OSError:
        import threading

        threads = threading.active_count()
    if threads > 1:
        return f"importing it started {threads - 1} threads"
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return "importing it initialised CUDA"
    return None


class RankSession:
    """A configured and collected pytest session.

    Attributes:
        config: Its configuration.
        session: pytest's session object.
        unsafe: Why ranks must not be forked from this process, or ``None``.
    """

    def __init__(self, config: pytest.Config, session: pytest.Session, collecting: _Collecting) -> None:
        self.config = config
        self.session = session
        self.unsafe = collecting.unsafe
        self._failures = collecting.failures

    @classmethod
    def collect(cls, order: SessionOrder) -> RankSession:
        """Make the session.

        Args:
            order: What the controller's session was made of.
        """
        os.chdir(order.invocation_dir)
        sys.path[:] = order.sys_path
        collecting = _Collecting()
        config = compat.prepare_config(list(order.args), plugins=[collecting])
        vars(config.option).update(order.options)
        vars(config.option).update(_SWITCHED_OFF)
        config.stash[ROLE] = "server"
        # What xdist gives its workers: conftests ask for it to do things once.
        config.workerinput = dict(order.workerinput)  # type: ignore[attr-defined]
        config.workeroutput = {}  # type: ignore[attr-defined]
        for name in _LEFT_OUT:
            plugin = config.pluginmanager.get_plugin(name)
            if plugin is not None:
                config.pluginmanager.unregister(plugin)
        compat.configure(config)
        compat.silence_terminal(config)
        collecting.look("a conftest.py or plugin")
        session = pytest.Session.from_config(config)
        config.hook.pytest_sessionstart(session=session)
        config.args = [file for file in order.files if Path(file).exists()]
        if config.args:
            config.hook.pytest_collection(session=session)
            leave_to_controller(session)
        compat.stop_capture(config)
        return cls(config, session, collecting)

    def find(self, nodeid: str, occurrence: int) -> pytest.Item:
        """Return the test that the controller means.

        Raises:
            CollectionError: It is not here; the text says why.
        """
        same = [item for item in self.session.items if item.nodeid == nodeid]
        if occurrence < len(same):
            return same[occurrence]
        for collector, text in self._failures.items():
            if nodeid.startswith(collector):
                raise CollectionError(f"collecting {collector} in the ranks' session failed\n{text}")
        near = [item.nodeid for item in self.session.items if item.nodeid.partition("[")[0] == nodeid.partition("[")[0]]
        found = f"; it has {', '.join(near)}" if near else ""
        raise CollectionError(
            f"the ranks' session has no test {nodeid}{found} (do ids differ from collection to collection?)"
        )
