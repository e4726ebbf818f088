"""The plugin by which a rank's pytest debugs its test: breakpoints, ``--trace``, ``--pdb``."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from pytest_elastic import compat
from pytest_elastic.worker.debugger import NoDebugger, ask, attach, header
from pytest_elastic.worker.failure import place_of
from pytest_elastic.worker.stopping import Stop
from pytest_elastic.worker.terminal import RankTerminal

EXPECTED = pytest.StashKey[Any]()
"""What the controller is going to make of a failure: pytest's judgement of the marks that it has to itself."""


class Interaction:
    """Opens debuggers on the person's terminal. In the server, which is no rank, it does nothing."""

    def __init__(self) -> None:
        self._terminal: RankTerminal | None = None
        self._stop: Stop | None = None

    def bind(self, config: pytest.Config, terminal: RankTerminal, stop: Stop) -> None:
        """Connect pytest's debugger with the terminal of a rank.

        Args:
            config: The rank's session.
            terminal: The terminal.
            stop: The wish to end this rank.
        """
        if self._terminal is None:
            compat.wrap_debugger(
                begins=partial(ask, terminal),
                header=partial(header, terminal),
                otherwise=NoDebugger,
                attach=partial(attach, terminal=terminal),
            )
        self._terminal, self._stop = terminal, stop
        terminal.suspend = partial(compat.suspend_capture, config)
        terminal.resume = partial(compat.resume_capture, config)

    def pytest_exception_interact(
        self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any], report: pytest.TestReport
    ) -> None:
        """Debug a failure (``--pdb``), if this is the rank that the controller chooses."""
        terminal = self._terminal
        if terminal is None or not isinstance(node, pytest.Item) or not node.config.getoption("usepdb", False):
            return
        assert call.excinfo is not None
        assert self._stop is not None
        expected = node.stash.get(EXPECTED, None)
        if self._stop.wanted or (expected is not None and compat.is_expected(expected, call.excinfo.value)):
            return
        if terminal.take("failure", place_of(call.excinfo.value)):
            try:
                compat.debug_failure(node, call.excinfo, report)
            finally:
                terminal.give_back()
