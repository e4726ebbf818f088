"""The plugin by which a rank's pytest debugs its test: breakpoints, ``--trace``, ``--pdb``."""

from __future__ import annotations

import pdb
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import compat
from pytest_elastic.worker.debugger import NoDebugger, ask, attach, header, lend_to_post_mortem
from pytest_elastic.worker.failure import place_of
from pytest_elastic.worker.runner import written_so_far
from pytest_elastic.worker.stopping import Stop
from pytest_elastic.worker.terminal import RankTerminal

EXPECTED = pytest.StashKey[Any]()
"""What the controller is going to make of a failure: pytest's judgement of the marks that it has to itself."""


class Interaction:
    """Opens debuggers on the person's terminal. In the server, which is no rank, it does nothing."""

    def __init__(self) -> None:
        self._terminal: RankTerminal | None = None
        self._stop: Stop | None = None
        self._directory = Path()
        self._begun = (0, 0)

    def begin_test(self, config: pytest.Config) -> None:
        """Take note of where the output of a test begins."""
        if config.getoption("usepdb", False):
            self._begun = written_so_far(self._directory)

    def bind(self, config: pytest.Config, directory: Path, terminal: RankTerminal, stop: Stop) -> None:
        """Connect pytest's debugger with the terminal of a rank.

        Args:
            config: The rank's session.
            directory: Where the rank writes.
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
            lend_to_post_mortem(terminal, pdb)
        self._directory, self._terminal, self._stop = directory, terminal, stop
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
            report.sections += self._output()
            try:
                compat.debug_failure(node, call.excinfo, report)
            finally:
                terminal.give_back()

    def _output(self) -> list[tuple[str, str]]:
        """Return what the test has written, as pytest's capture would have it: the report has left already."""
        ends = written_so_far(self._directory)
        sections = []
        for name, begin, end in zip(("stdout", "stderr"), self._begun, ends, strict=True):
            with (self._directory / f"{name}.log").open("rb") as log:
                log.seek(begin)
                sections.append((f"Captured {name}", log.read(end - begin).decode(errors="replace")))
        return sections
