"""How much memory the ranks of a launch hold, looked at from time to time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pytest_elastic import clock, kernel
from pytest_elastic.controller.peers import RankState

if TYPE_CHECKING:
    import psutil

_INTERVAL: Final = 0.1
"""Seconds between two looks, at the beginning of a launch."""
_MOST: Final = 300
"""Samples of a rank after which every second one is dropped, and looks become half as frequent."""


class MemoryWatch:
    """Looks at the memory of the ranks of one launch that are processes of this machine."""

    def __init__(self) -> None:
        self._interval = _INTERVAL
        self._due = 0.0
        self._processes: dict[int, psutil.Process] = {}

    def patience(self) -> float:
        """Return for how many seconds nothing is to be done."""
        return max(0.0, self._due - clock.monotonic())

    def look(self, ranks: Iterable[RankState]) -> None:
        """Look at all ranks, if it is time to."""
        now = clock.monotonic()
        if now < self._due:
            return
        self._due = now + self._interval
        longest = 0
        for rank in ranks:
            if isinstance(rank.handle, kernel.ProcessHandle) and rank.alive():
                self._look_at(rank)
                longest = max(longest, len(rank.memory))
        if longest >= _MOST:
            self._interval *= 2
            for rank in ranks:
                del rank.memory[1::2]

    def _look_at(self, rank: RankState) -> None:
        import psutil

        assert rank.handle is not None
        pid = rank.handle.pid
        try:
            if pid not in self._processes:
                self._processes[pid] = psutil.Process(pid)
            size = self._processes[pid].memory_info().rss
            if size:  # one that has ended, and that its parent has not waited for, has none
                rank.memory.append((clock.monotonic_ns(), size))
        except psutil.Error:  # it has ended just now
            self._processes.pop(pid, None)
