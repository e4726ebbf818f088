"""Does something now and then in a thread of this process that the work of a rank does not notice."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pytest_elastic import clock, kernel

_SHARE: Final = 20
"""The thread rests for at least as many times the time that its last turn took."""
_LONGEST_TURN: Final = 5.0


class Regularly:
    """Calls a function now and then.

    ``threading`` does not know of the thread, and it hears no signals. It ends before this process forks and comes back
    after that: what it may hold at that moment would be held in the child for ever, and Python warns of forks beside
    other threads.

    Args:
        turn: What is called.
        interval: Seconds between two calls.
    """

    def __init__(self, turn: Callable[[], object], *, interval: float) -> None:
        self._turn = turn
        self._interval = interval
        self._owner = kernel.own_pid()
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._runs = False
        self._returns = False
        self._task = Path()
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork)
        self._begin()

    def end(self) -> None:
        """End the thread, after its present turn."""
        if not self._runs or kernel.own_pid() != self._owner:
            return
        self._runs = False
        self._ending.set()
        self._ended.wait(_LONGEST_TURN)
        # It has still to leave Python, which takes some microseconds.
        deadline = clock.monotonic() + _LONGEST_TURN
        while self._task.exists() and clock.monotonic() < deadline:
            kernel.pause(0.0001)

    def _begin(self) -> None:
        self._runs = True
        self._ending.clear()
        self._ended.clear()
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._task = Path(f"/proc/self/task/{threading.get_native_id()}")
        pause = self._interval
        with contextlib.suppress(Exception):  # of the end of the interpreter, which takes away what this needs
            while not self._ending.wait(pause):
                begin = clock.monotonic()
                self._turn()
                pause = max(self._interval, _SHARE * (clock.monotonic() - begin))
        self._ended.set()

    def _before_fork(self) -> None:
        self._returns = self._runs and kernel.own_pid() == self._owner
        self.end()

    def _after_fork(self) -> None:
        if self._returns:
            self._begin()
