"""What becomes of a session whose launcher ends it, because another process of its has ended or a node has come."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

import pytest

from pytest_elastic import kernel

_NOTICE: Final = 0.3
"""Seconds in which the loss of a node is noticed that the launcher has noticed."""
_LAST: Final = 15.0
"""Seconds that the test under way gets to end with its verdict; torchrun waits for 30 s."""
_CODE: Final = 128 + signal.SIGTERM


class Termination:
    """SIGTERM, for the first controller: it reports what it knows before it ends.

    Args:
        session: pytest's session.
        lost: Tells whether a node has been lost: then the test under way has a verdict, which is to be told.
    """

    def __init__(self, session: pytest.Session, lost: Callable[[], bool]) -> None:
        self._session = session
        self._lost = lost
        self._owner = kernel.own_pid()
        self._told = False
        self._timer: threading.Timer | None = None

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Take the signal, unless somebody else does already."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGTERM, self._handle)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _handle(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if kernel.own_pid() != self._owner:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        text = "ended by the launcher (SIGTERM)"
        if not self._told:
            self._told = True
            kernel.pause(_NOTICE)
            if self._lost():
                self._session.shouldstop = text
                self._timer = threading.Timer(_LAST, os.kill, (self._owner, signal.SIGTERM))
                self._timer.daemon = True
                self._timer.start()
                return
        raise pytest.exit.Exception(text, returncode=_CODE)
