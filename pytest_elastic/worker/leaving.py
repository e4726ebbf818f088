"""How a rank leaves: threads and children that a test forgot must not hold it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing import util
from typing import NoReturn


class Exit:
    """Bounds the end of this process.

    Python waits without limit for non-daemon threads and for children of ``multiprocessing``.

    Attributes:
        code: Exit code that the process is going to have.
        told: The controller knows how this rank failed.
    """

    def __init__(self, grace: float) -> None:
        self.code = 1
        self.told = False
        self._grace = grace
        # Called before multiprocessing waits for its children and threading for its threads.
        util.Finalize(None, self._leave, exitpriority=10_000)

    @staticmethod
    def leftovers() -> tuple[str, ...]:
        """Name what would hold the process: non-daemon threads, children of ``multiprocessing``."""
        threads = [thread.name for thread in _foreign_threads()]
        # active_children() reaps as well; daemonic children are ended by multiprocessing itself.
        children = [child for child in multiprocessing.active_children() if not child.daemon]
        return (
            *(f"thread {name!r}" for name in threads),
            *(f"process {child.pid} ({child.name})" for child in children),
        )

    def now(self) -> NoReturn:
        """End as a forked process does: without the interpreter's own end, for which the verdict would have to wait.

        With torch loaded that takes half a second of CPU.
        """
        atexit._run_exitfuncs()
        self._end()

    def _leave(self) -> None:
        deadline = time.monotonic() + self._grace
        for thread in _foreign_threads():
            thread.join(max(0.0, deadline - time.monotonic()))
        for child in multiprocessing.active_children():
            if not child.daemon:
                child.join(max(0.0, deadline - time.monotonic()))
        if not self.leftovers():
            return
        self._end()

    def _end(self) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(self.code)


def _foreign_threads() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon and thread is not threading.current_thread()
    ]
