"""The person's terminal, which a rank gets for as long as somebody debugs it."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, TypeAlias

import pytest

from pytest_elastic import compat, kernel
from pytest_elastic.controller.live import terminal_writer
from pytest_elastic.controller.peers import RankState
from pytest_elastic.fixtures import is_xdist_worker

_Attributes: TypeAlias = list[Any]
_FORWARDED: Final = (signal.SIGINT, signal.SIGWINCH)
"""What the system sends to the processes in front of a terminal, of which the rank is none."""


@dataclass(slots=True, eq=False)
class Loan:
    """One time for which a rank has the terminal.

    Attributes:
        rank: Which rank.
        prompting: The debugger waits for a command.
        over: Set when it has been given back, or the rank has ended.
        interrupted: Ctrl-C has been pressed since the debugger last waited for a command.
    """

    rank: RankState
    prompting: bool = True
    over: threading.Event = field(default_factory=threading.Event)
    interrupted: bool = False

    def send(self, signum: int) -> None:
        """Send a signal to the rank."""
        # Called by handlers of signals, at any moment: the supervisor's thread may be letting go of the process.
        with contextlib.suppress(OSError, TypeError, ValueError):
            if self.rank.handle is not None:
                self.rank.handle.send(signum)


class Terminal:
    """The terminal of the pytest process, or what else its standard streams are.

    Args:
        config: pytest's configuration.
        rank: The rank that the person wants to debug, or ``None``.

    Attributes:
        wanted_rank: That rank.
        refusal: Why there is no terminal, or an empty text.
        write: Writes lines to it.
    """

    def __init__(self, config: pytest.Config, rank: int | None) -> None:
        self.wanted_rank: Final = rank
        self.refusal: Final = (
            "a worker of pytest-xdist has no terminal; run this test without -n" if is_xdist_worker(config) else ""
        )
        self.write: Final = terminal_writer(config)
        self._config = config
        self._turn = threading.Lock()

    def lend(self, loan: Loan, hand_over: Callable[[list[int]], None]) -> None:
        """Give the terminal to a rank, and wait until it has given it back; in the thread of the test.

        Args:
            loan: To whom.
            hand_over: Passes descriptors of this process to the rank.
        """
        __tracebackhide__ = True
        hook = self._config.hook
        with self._turn, compat.given_back_by_capture(self._config):
            # The class of the debugger is the rank's affair; what plugins do here is to stop their clocks.
            hook.pytest_enter_pdb(config=self._config, pdb=None)
            try:
                with _streams() as fds, _kept_settings(fds) as terminal, _signals(loan, terminal):
                    _come_to_front(terminal)
                    hand_over(fds)
                    while not loan.over.wait(1.0):  # bounded, or a signal might not come through
                        pass
            finally:
                hook.pytest_leave_pdb(config=self._config, pdb=None)


@contextmanager
def _streams() -> Iterator[list[int]]:
    """Return descriptors for standard input, output and error, also where some of them are closed."""
    opened, fds = [], []
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            fd = os.open(os.devnull, os.O_RDWR)
            opened.append(fd)
        fds.append(fd)
    try:
        yield fds
    finally:
        for fd in opened:
            os.close(fd)


@contextmanager
def _kept_settings(fds: list[int]) -> Iterator[int | None]:
    """Find the terminal among the streams, and put its settings back: a rank that is killed does not."""
    terminal = next((fd for fd in fds if os.isatty(fd)), None)
    settings = _settings(terminal)
    try:
        yield terminal
    finally:
        _apply(terminal, settings)


def _settings(terminal: int | None) -> _Attributes | None:
    if terminal is not None:
        with contextlib.suppress(termios.error):  # it has hung up
            return termios.tcgetattr(terminal)
    return None


def _apply(terminal: int | None, settings: _Attributes | None) -> None:
    if terminal is not None and settings is not None:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, settings)


def _come_to_front(terminal: int | None) -> None:
    """Stop in the background of a shell, as a process does that reads there; the rank is none of the shell's."""
    with contextlib.suppress(OSError):  # another terminal than that of the session
        if terminal is not None and os.tcgetpgrp(terminal) != os.getpgrp():
            os.killpg(0, signal.SIGTTIN)


@contextmanager
def _signals(loan: Loan, terminal: int | None) -> Iterator[None]:
    """Pass on to the rank what the keys of the terminal send to this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 (as the signal module calls it)
        if signum == signal.SIGINT and not loan.prompting:
            if loan.interrupted:  # the rank has not heard the first: it is stuck where Python is not run
                raise KeyboardInterrupt
            loan.interrupted = True
        loan.send(signum)

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        loan.send(signal.SIGSTOP)
        debugger = _settings(terminal)
        _apply(terminal, before)
        os.kill(kernel.own_pid(), signal.SIGSTOP)
        # Here the person has brought this process to the front again.
        _apply(terminal, debugger)
        loan.send(signal.SIGCONT)

    before = _settings(terminal)
    replaced = {signum: signal.signal(signum, forward) for signum in _FORWARDED}
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        replaced[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        for signum, handler in replaced.items():
            signal.signal(signum, handler)
