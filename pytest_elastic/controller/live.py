"""What a person sees while ranks run: their output line by line (``-s``), and their live log (``log_cli``)."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import compat
from pytest_elastic.controller.output_watch import files_of
from pytest_elastic.controller.peers import RankState


class LiveLines:
    """Lines on their way to the terminal: the supervisor adds them, the thread of the test writes them.

    Args:
        write: Writes a text of whole lines.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lines: deque[str] = deque()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, rank: int, text: str) -> None:
        """Add one or more whole lines of a rank."""
        self._lines.extend(f"[rank {rank}] {line}\n" for line in text.splitlines())

    def show(self) -> None:
        """Write what has been added so far."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if lines:
            self._write("".join(lines))


class OutputTails:
    """Follows what ranks write to their logs, whole line by whole line.

    Args:
        directory: Directory of the launch's output.
        lines: Where the lines go.
    """

    def __init__(self, directory: Path, lines: LiveLines) -> None:
        self._directory = directory
        self._lines = lines
        self._seen: dict[Path, tuple[int, bytes]] = {}

    def follow(self, ranks: Iterable[RankState], *, last: bool = False) -> None:
        """Add the lines that are complete by now; with ``last`` the rest too."""
        for rank in ranks:
            for file in files_of(rank, self._directory):
                offset, rest = self._seen.get(file, (0, b""))
                try:
                    with file.open("rb") as log:
                        log.seek(offset)
                        new = log.read()
                except OSError:
                    continue  # not there yet
                whole, _, begun = (rest + new).rpartition(b"\n") if not last else (rest + new, b"", b"")
                self._seen[file] = (offset + len(new), begun)
                if whole:
                    self._lines.add(rank.id.rank, whole.decode(errors="replace"))


def terminal_writer(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that writes to the terminal while a test runs, past pytest's capture."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")

    def write(text: str) -> None:
        context: AbstractContextManager[None] = capture.global_and_fixture_disabled() if capture else nullcontext()
        with context:
            if reporter is None:
                sys.stdout.write(text)
            else:
                compat.write_lines(reporter, text)

    return write
