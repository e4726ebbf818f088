"""Ask ranks for their Python stacks, and know when they have written them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from pytest_elastic import clock
from pytest_elastic.controller.peers import RankState
from pytest_elastic.rank_directory import rank_directory
from pytest_elastic.worker.stacks import FILE_NAME, STACK_SIGNAL

_PATIENCE: Final = 0.5
"""Seconds that ranks get; those that can write need a few milliseconds."""


class StackRequest:
    """A request to all ranks that live.

    Args:
        ranks: The ranks.
        directory: Directory of the launch's output.
    """

    def __init__(self, ranks: Collection[RankState], directory: Path) -> None:
        self._ends = clock.monotonic() + _PATIENCE
        self._files: dict[Path, RankState] = {}
        self._sizes: list[int] | None = None
        for rank in ranks:
            # One that has not come so far, or has become a command, would die of the signal.
            if rank.handle is not None and rank.writes_stacks and rank.alive():
                self._files[_file_of(rank, directory)] = rank
                rank.was_stopped = rank.handle.wake_by(STACK_SIGNAL)

    def answered(self) -> bool:
        """Tell whether every rank that lives has written, and none more since the last look; or time is up."""
        sizes = [file.stat().st_size if file.exists() else 0 for file, rank in self._files.items() if rank.alive()]
        before, self._sizes = self._sizes, sizes
        return clock.monotonic() >= self._ends or (all(sizes) and sizes == before)


def wrote_stacks(rank: RankState, directory: Path) -> bool:
    """Tell whether a rank has written stacks so far, for whatever reason."""
    file = _file_of(rank, directory)
    return file.exists() and file.stat().st_size > 0


def _file_of(rank: RankState, directory: Path) -> Path:
    return rank_directory(directory, rank.id) / FILE_NAME
