"""How a rank leaves: threads and children that a test forgot must not hold it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import logging.handlers
import multiprocessing
import os
import sys
import threading
import weakref
from multiprocessing import util
from typing import NoReturn

from pytest_elastic import clock, kernel


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
        self._owner = kernel.own_pid()
        # Called before multiprocessing waits for its children and threading for its threads.
        util.Finalize(None, self._leave, exitpriority=10_000)
        if sys.version_info >= (3, 13):
            _finalize_before_waiting_for_threads()

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

    def settle(self) -> tuple[str, ...]:
        """Give threads and children the grace time to end by themselves, and name those that have not."""
        if kernel.own_pid() != self._owner:
            return ()  # A fork has no thread but its own, and its parent's children are not its children.
        deadline = clock.monotonic() + self._grace
        for thread in _foreign_threads():
            thread.join(max(0.0, deadline - clock.monotonic()))
        for child in multiprocessing.active_children():
            if not child.daemon:
                child.join(max(0.0, deadline - clock.monotonic()))
        return self.leftovers()

    def _leave(self) -> None:
        if self.settle():
            self.now()

    def at_once(self) -> NoReturn:
        """End as a forked process does: without the interpreter's own end, for which the verdict would have to wait.

        With torch loaded that takes half a second of CPU.
        """
        atexit._run_exitfuncs()
        self.now()

    def now(self) -> NoReturn:
        """End this process with what is left in it."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # whatever the work has put or left there
                stream.flush()
        os._exit(self.code)


def _finalize_before_waiting_for_threads() -> None:
    """Have multiprocessing call its finalizers before it waits for threads, as it did up to Python 3.12.

    Since then it leaves them to ``atexit``, which comes after that.
    """
    wait_for_threads = threading._shutdown  # type: ignore[attr-defined]

    def shutdown() -> None:
        util._exit_function()  # type: ignore[attr-defined]
        wait_for_threads()

    threading._shutdown = shutdown  # type: ignore[attr-defined]


def call_what_atexit_knows() -> None:
    """Have this forked process call at its end what it registers with ``atexit`` from now on.

    multiprocessing leaves it out in forks, since what the parent registered is the parent's: a module that makes a
    directory when it is imported, and removes it at the end, has made it once, in the server.
    """
    atexit._clear()
    forget_buffered_records()
    atexit.register(logging.shutdown)
    for inherited in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        inherited.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    # After multiprocessing's own finalizers, which Python calls by atexit as well.
    util.Finalize(None, _call_exit_functions, exitpriority=-10_000)


def drop_streams_that_cannot_be_flushed() -> None:
    """Take away what a test has put in the place of standard output or error, if it would fail the end of this process.

    Python tells of it at its own end, and multiprocessing makes a failure of it; here the verdict is complete by now.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except Exception:  # noqa: BLE001 (whatever the test has put there)
            setattr(sys, name, None)


def forget_buffered_records() -> None:
    """Empty the buffers of handlers of ``logging``: what is in them is the server's, and not for each rank to write."""
    for reference in logging._handlerList:  # type: ignore[attr-defined]
        handler = reference()
        if isinstance(handler, logging.handlers.BufferingHandler):
            handler.buffer = []


def _call_exit_functions() -> None:
    sys.unraisablehook = sys.__unraisablehook__  # pytest's would keep what goes wrong for a test that is over
    with contextlib.suppress(BaseException):  # printed; the exit code is what it would have been
        atexit._run_exitfuncs()


def _foreign_threads() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon and thread is not threading.current_thread()
    ]


def exitcode_of(error: SystemExit) -> int:
    """Return the exit code that the system sees of ``sys.exit``: its lowest eight bits."""
    if error.code is None:
        return 0
    if not isinstance(error.code, int):
        return 1
    # Python makes -1 of what is no C long.
    return error.code & 0xFF if -(2**63) <= error.code < 2**63 else 0xFF
