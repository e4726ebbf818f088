"""An agent that runs in a thread of this process, as the launch sees it: it may get stuck, and cannot be killed."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_elastic.forking import ServerAddress
from pytest_elastic.messages import AgentFinished, AgentOrder

if TYPE_CHECKING:
    from pytest_elastic.agent.inline import Undo

PATIENCE: Final = 0.5
"""Seconds that it gets to end by itself once its ranks are killed; a healthy one needs about a quarter."""


class InlineAgent:
    """One inline agent, not started yet.

    An agent that does not end is given up: everything that it has changed in this process is changed back, it can start
    no process and say nothing any more, and its daemon thread does no harm when it wakes up.

    Args:
        order: What to run.
        server: Where ranks are forked.
        store_fd: Listening socket for the store of the rendezvous, or ``None``; a duplicate is taken.
        wake: Called when its thread ends.

    Attributes:
        finished: What it said last, or ``None``.
        started: It was told to run.
        given_up: It did not end.
    """

    def __init__(
        self, order: AgentOrder, server: ServerAddress, store_fd: int | None, wake: Callable[[], None]
    ) -> None:
        self._order = order
        self._server = server
        self._store_fd = None if store_fd is None else os.dup(store_fd)
        self._wake = wake
        self._undo: Undo | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self.finished: AgentFinished | None = None
        self.started = False
        self.given_up = False
        self._thread = threading.Thread(target=self._run, name=f"agent-{order.node}", daemon=True)

    def start(self) -> None:
        """Run the agent, unless the launch is over already."""
        if not self._stopped:
            self.started = True
            self._thread.start()

    def gone(self) -> bool:
        """Tell whether its thread has ended."""
        return self.started and not self._thread.is_alive()

    def end(self, patience: float) -> None:
        """Wait for its end for some seconds, and give it up then."""
        if self.started:
            self._thread.join(patience)
            if self._thread.is_alive() and not self.given_up:
                self.given_up = True
                self._note(self._stack())
        with self._lock:
            self._stopped = True
            undo, self._undo = self._undo, None
            store_fd, self._store_fd = self._store_fd, None
        if undo is not None:
            undo.all()
        if store_fd is not None:
            os.close(store_fd)

    def _run(self) -> None:
        try:
            # Here, because it imports torch: the supervisor has deadlines to keep.
            from pytest_elastic.agent.inline import Undo, run

            undo = Undo()
            with self._lock:
                if self._stopped:
                    return
                self._undo = undo
            try:
                self.finished = run(self._order, self._server, self._store_fd, undo)
            finally:
                undo.all()
        except BaseException:  # noqa: BLE001 (nobody else is there to hear of it)
            if not self._stopped:
                self._note(traceback.format_exc())
        finally:
            if not self._stopped:
                self._wake()

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "" if frame is None else "stuck at:\n" + "".join(traceback.format_stack(frame))

    def _note(self, text: str) -> None:
        """Write where an agent process has its log."""
        with (Path(self._order.directory) / f"agent-{self._order.node}.log").open("a") as log:
            log.write(text)
