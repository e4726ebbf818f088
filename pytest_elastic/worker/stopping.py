"""What a rank makes of SIGTERM: its agent says so that another rank has failed, and fixtures want to be torn down.

The exception is raised only while the test's own code runs. A rank that is told at another time goes on to the next
such moment, or to its end; whoever does not get there in time is killed when the grace time is over.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pytest_elastic import kernel


class RankStopped(BaseException):
    """This rank was told to end. As a KeyboardInterrupt, it passes by ``except Exception``."""


class Stop:
    """The wish to end this rank.

    Args:
        before_end: Called before the process ends.

    Attributes:
        wanted: SIGTERM has come.
    """

    def __init__(self, before_end: Callable[[], object] = lambda: None) -> None:
        self._before_end = before_end
        self.wanted = False
        self._open = False
        self._stacks: int | None = None

    def listen(self, stacks: int) -> None:
        """Take SIGTERM from now on; the stacks of that moment are still written first.

        Args:
            stacks: Descriptor to which this rank writes its stacks.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._stacks = stacks
        self._take(self._hear)
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
        """End as SIGTERM ends a process, now or when it comes: whoever looks at the exit code sees why.

        A rank that is done with its test waits for the others, and there is nothing to tear down any more.
        """
        self._before_end()
        if self._stacks is not None and not self.wanted:
            self._take(signal.SIG_DFL)
        if self.wanted:
            faulthandler.unregister(signal.SIGTERM)  # the stacks of when it came are what counts
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(kernel.own_pid(), signal.SIGTERM)

    def _take(self, action: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
        """Set what SIGTERM does beside writing the stacks."""
        assert self._stacks is not None
        faulthandler.unregister(signal.SIGTERM)
        signal.signal(signal.SIGTERM, action)
        faulthandler.register(signal.SIGTERM, file=self._stacks, all_threads=True, chain=True)
