"""What importing test files does to the process that collects them, and which tests were found there."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from pytest_elastic import clock, kernel

_ENDING: Final = 0.1
"""Seconds in which a thread that has done its work has left the kernel's list."""


class Collecting:
    """A plugin that watches a collection.

    Attributes:
        failures: Text of what went wrong, by node id of the collector.
        skips: Why what was skipped as a whole was skipped, by node id of the collector.
        unsafe: Why ranks must not be forked from this process, or ``None``.
        found: Every test, also what plugins deselected because they saw fewer files than in the controller.
    """

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.skips: dict[str, str] = {}
        self.unsafe: str | None = None
        self.found: list[pytest.Item] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
        """Take a file that nobody wants here: to pytest one that is asked for and not collected is an error."""
        collectors = yield
        if not collectors and parent.session.isinitpath(file_path):
            return [_Nothing.from_parent(parent, path=file_path)]
        return collectors

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Look at the process after each import, and keep what failed."""
        report = yield
        self.look(collector.nodeid or "conftest.py")
        if report.failed:
            self.failures[report.nodeid] = report.longreprtext
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skips[report.nodeid] = reason.removeprefix("Skipped: ")
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Keep the tests before any plugin takes some of them away."""
        self.found += items
        yield

    def look(self, culprit: str) -> None:
        """Note the first module after whose import this process cannot be forked safely."""
        if self.unsafe is None:
            reason = why_unsafe()
            if reason is not None:
                self.unsafe = f"{culprit}: {reason}"


class _Nothing(pytest.File):
    """A file without tests."""

    def collect(self) -> list[pytest.Item]:
        """Find nothing."""
        return []


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        import threading

        return threading.active_count()


def why_unsafe() -> str | None:
    """Return why this process must not be forked: it has threads, or has touched an accelerator."""
    threads = _threads()
    deadline = clock.monotonic() + _ENDING
    while threads > 1 and clock.monotonic() < deadline:
        kernel.pause(0.005)
        threads = _threads()
    if threads > 1:
        return f"importing it started {threads - 1} thread{'' if threads == 2 else 's'}"
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return "importing it initialised CUDA"
    return None
