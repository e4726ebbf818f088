"""What a rank makes of SIGTERM: its agent says so that another rank has failed, and fixtures want to be torn down.

The exception is raised only while the test's own code runs. A rank that is told at another time goes on to the next
such moment, or to its end; whoever does not get there in time is killed when the grace time is over.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class RankStopped(BaseException):
    """This rank was told to end. As a KeyboardInterrupt, it passes by ``except Exception``."""


class Stop:
    """The wish to end this rank.

    Attributes:
        wanted: SIGTERM has come.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._open = False

    def listen(self, stacks: int) -> None:
        """Take SIGTERM from now on; the stacks of that moment are still written first.

        Args:
            stacks: Descriptor to which this rank writes its stacks.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        faulthandler.unregister(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._hear)
        faulthandler.register(signal.SIGTERM, file=stacks, all_threads=True, chain=True)
        # A session that this rank collected by itself has pointed it elsewhere.
        faulthandler.enable(file=stacks, all_threads=True)

    def _hear(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 (as the signal module calls it)
        self.wanted = True
        if self._open:
            self._open = False  # once is enough: the teardown that follows is not to be disturbed
            raise RankStopped("another rank had failed")

    @contextmanager
    def possible(self) -> Iterator[None]:
        """Let :class:`RankStopped` be raised while the block runs."""
        if self.wanted:
            raise RankStopped("another rank had failed")
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def obey(self) -> None:
        """End as SIGTERM ends a process, if it has come: whoever looks at the exit code sees why."""
        if self.wanted:
            faulthandler.unregister(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
