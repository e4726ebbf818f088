"""What the preloaded server knows, and each process that it forks finds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_elastic.worker.session import RankSession


@dataclass(slots=True)
class ServerState:
    """What the server has to tell to what it forks.

    Attributes:
        pid: Process id of the server.
        broken: Traceback of what went wrong in the preload, or ``None``.
        unsafe: Why ranks must not be forked from here, or ``None``.
        tracker_fd: Descriptor of the server's own resource tracker.
        session: The collected pytest session, or ``None``.
    """

    pid: int
    broken: str | None = None
    unsafe: str | None = None
    tracker_fd: int | None = None
    session: RankSession | None = None


state: ServerState | None = None
"""Set in the server and in all that it forked; ``None`` in every other process."""


def own_tracker() -> None:
    """Use the server's resource tracker in this process, which multiprocessing was handed none for."""
    if state is not None and state.tracker_fd is not None:
        tracker = resource_tracker._resource_tracker
        given = tracker._fd  # type: ignore[attr-defined]
        if given is not None and given != state.tracker_fd:
            os.close(given)
        tracker._fd = state.tracker_fd  # type: ignore[attr-defined]
