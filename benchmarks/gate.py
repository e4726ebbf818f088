"""A pytest plugin that lets a session's tests through in turns, and times each turn. It needs only pytest.

Sessions that are compared wait side by side, and the benchmark lets one at a time run the next few tests. A turn is
timed in the session's own process, from the opening of the gate to the arrival at the next one, so that all of what
pytest does for a test is in it.

The two descriptors come in the environment variable ``BENCH_GATE``, which is taken out of it: processes that the
session starts have no gate, though they may load this plugin.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator

import pytest

ENDPOINTS = os.environ.pop("BENCH_GATE", None)
STAMPS = os.environ.get("BENCH_STAMPS")


class Gate:
    """The gate of one session.

    Commands are lines: how many tests may pass. The end of the commands ends the session. Answers are lines: ``ready``
    at the first gate, then the seconds of each turn, or ``failed`` and the reason.
    """

    def __init__(self, endpoints: str) -> None:
        commands, answers = map(int, endpoints.split(","))
        self._commands = os.fdopen(commands, "r")
        self._answers = os.fdopen(answers, "w", buffering=1)
        self._left = 0
        self._begin: float | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Wait here until this test may run."""
        if self._left == 0:
            self._answer()
            command = self._commands.readline()
            if not command:
                self._begin = None
                pytest.exit("measured", returncode=0)
            self._left = int(command)
            self._begin = time.perf_counter()
        self._left -= 1
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell of a test that did not pass: what it took means nothing then. Where tests are to fail, note when."""
        if STAMPS is not None and report.failed and report.when == "call":
            with open(STAMPS, "a") as stamps:
                stamps.write(f"{time.monotonic()}\n")
        elif report.failed or report.skipped:
            self._say(f"failed {report.nodeid}: {report.longreprtext.strip()[-2000:]}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """The last turn ends where there is no next test."""
        if self._begin is not None and self._left == 0:
            self._answer()
        self._begin = None

    def _answer(self) -> None:
        self._say("ready" if self._begin is None else repr(time.perf_counter() - self._begin))

    def _say(self, words: str) -> None:
        self._answers.write(" ".join(words.splitlines()) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Put the gate up, where there is one."""
    if ENDPOINTS is not None:
        config.pluginmanager.register(Gate(ENDPOINTS), "the-gate")
