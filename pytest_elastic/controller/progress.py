"""What a person at a terminal sees while a test takes long: one line, wiped when something else is written.

It is seen from the third second on, on a terminal only, and not in continuous integration.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

from pytest_elastic import clock, compat
from pytest_elastic.report.stacks import fold
from pytest_elastic.services.slots import told

if TYPE_CHECKING:
    from pytest_elastic.controller.launch import Launch
    from pytest_elastic.services.slots import Waiting

PATIENCE: Final = 3.0
"""Seconds that a test runs before it is shown."""
QUEUE_PATIENCE: Final = 5.0
"""Seconds that a launch waits for its turn before that is shown."""
INTERVAL: Final = 1.0


class Display(Protocol):
    """Where the line is shown."""

    def show(self, line: str) -> None:
        """Show a line in the place of the one before."""

    def wipe(self) -> None:
        """Leave nothing of it."""


class Nowhere:
    """Shows nothing: this is no terminal, or nobody sits at it."""

    def show(self, line: str) -> None:
        """Do nothing."""

    def wipe(self) -> None:
        """Do nothing."""


class StatusLine:
    """The line below the one that pytest writes on.

    Args:
        config: pytest's.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")
        self._file: Any = compat.terminal_file(self._reporter)
        self._streams = config.getoption("capture", None) == "no"  # what tests write would be garbled
        self._shown = False
        self._column = 0
        self._below = False

    def interactive(self) -> bool:
        """Tell whether a person may see it."""
        if self._file is None or self._streams or os.environ.get("CI") or os.environ.get("BUILD_NUMBER"):
            return False
        with self._open():
            return bool(self._file.isatty()) and os.environ.get("TERM", "dumb") != "dumb"

    def show(self, line: str) -> None:
        """Write it."""
        with self._open():
            width = self._width()
            # The line break scrolls at the bottom of the screen, so the cursor cannot be saved and restored.
            self._write(("\r\x1b[K" if self._shown else "\n\r\x1b[K") + cut(line, width - 1))
        if not self._shown:
            written = max(0, compat.column(self._reporter))
            self._shown, self._column = True, written % width
            # Behind a full row the next letter belongs to the row below, which is the one of this line.
            self._below = written > 0 and not self._column

    def wipe(self) -> None:
        """Clear the line, and go back to where pytest goes on writing."""
        if not self._shown:
            return
        self._shown = False
        with self._open():
            back = "" if self._below else "\x1b[A\r"
            self._write("\r\x1b[K" + back + (f"\x1b[{self._column}C" if self._column else ""))

    def _width(self) -> int:
        """Return the columns of the terminal; only while it is open: where pytest captures, it is no terminal else."""
        try:
            width = os.get_terminal_size(self._file.fileno()).columns
        except (OSError, ValueError, AttributeError):  # it is gone, or a plugin's
            width = 0
        return width or shutil.get_terminal_size().columns

    def _open(self) -> AbstractContextManager[None]:
        capture: AbstractContextManager[None] = (
            self._capture.global_and_fixture_disabled() if self._capture else nullcontext()
        )
        return capture

    def _write(self, text: str) -> None:
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone: pytest is going to say so
            self._file.write(text.encode(encoding, "replace").decode(encoding))
            self._file.flush()


class StatusFile:
    """What a worker of pytest-xdist has to show: the main process reads it (:mod:`.workers_progress`).

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def show(self, line: str) -> None:
        """Write it, whole."""
        with contextlib.suppress(OSError):
            new = self._path.with_suffix(".new")
            new.write_text(line, encoding="utf-8", errors="replace")
            os.replace(new, self._path)

    def wipe(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class Progress:
    """The progress of one session's launches, one at a time.

    Args:
        find: Finds the display; called when there is something to show for the first time.
    """

    def __init__(self, find: Callable[[], Display]) -> None:
        self._find = find
        self._display: Display | None = None
        self._next = 0.0
        self._shown = False

    def tick(self, launch: Launch) -> None:
        """Show how a launch goes on, if it has run for long enough, and is not one of several in threads of a test."""
        seconds = launch.seconds
        if seconds >= PATIENCE and threading.current_thread() is threading.main_thread():
            self._show(lambda: line_of(launch, seconds))

    def waits(self, name: str, waiting: Waiting) -> None:
        """Show that a launch waits for its turn."""
        if waiting.seconds >= QUEUE_PATIENCE:
            self._show(lambda: line_of_waiting(name, waiting))

    def wipe(self) -> None:
        """Leave nothing on the terminal."""
        if self._shown:
            assert self._display is not None
            self._display.wipe()
            self._shown, self._next = False, 0.0

    def _show(self, line: Callable[[], str]) -> None:
        now = clock.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL
        if self._display is None:
            self._display = self._find()
        if not isinstance(self._display, Nowhere):
            self._display.show(line())
            self._shown = True


def cut(line: str, width: int) -> str:
    """Return as much of a line as a terminal shows in some columns."""
    if sum(map(_cells, line)) <= width:
        return line
    shown, room = "", width - 3
    for letter in line:
        room -= _cells(letter)
        if room < 0:
            break
        shown += letter
    return shown + "..."[: max(0, width)]


def _cells(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def line_of(launch: Launch, seconds: float) -> str:
    """Say how a launch goes on: its ranks by state, for how long, and its deadline."""
    limit = "" if launch.timeout is None else f" of {launch.timeout:g} s"
    return f"{launch.work_name}: {states_of(launch)}; {seconds:.0f} s{limit}"


def line_of_waiting(name: str, waiting: Waiting) -> str:
    """Say what a launch waits for."""
    ahead = f", {waiting.ahead} ahead of it" if waiting.ahead else ""
    return f"{name}: waits for {told(waiting.wants)}{ahead}; {waiting.seconds:.0f} s"


def display_for(config: pytest.Config, worker: Path | None) -> Display:
    """Return where a session shows its progress.

    Args:
        config: pytest's.
        worker: The file of a worker of pytest-xdist whose main process shows what is in it; else ``None``.
    """
    if worker is not None:
        return StatusFile(worker)
    terminal = StatusLine(config)
    return terminal if terminal.interactive() else Nowhere()


def states_of(launch: Launch) -> str:
    """Say which ranks are in which state."""
    ranks = launch.roster.last_world()
    if not ranks:
        agents = launch.roster.agents
        here = bool(agents) and all(agent.hello is not None for agent in agents)
        return "agents in rendezvous" if here else "agents starting"
    meeting = launch.waiting_ranks()
    states: dict[str, list[int]] = {}
    present = {rank.id.rank: rank for rank in ranks}
    for number in range(ranks[0].id.world_size):
        rank = present.get(number)
        if rank is None or (rank.hello_ns is None and not rank.over()):
            state = "starting"
        elif rank.bad():
            state = "failed"
        elif rank.finished is not None or rank.over():
            state = "done"
        else:
            state = "waiting" if number in meeting else "running"
        states.setdefault(state, []).append(number)
    order: Sequence[str] = ("failed", "starting", "running", "waiting", "done")
    return ", ".join(f"{fold(states[state])} {state}" for state in order if state in states)
