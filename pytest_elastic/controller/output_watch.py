"""What ranks write, while they write it: waking up when there is more, and looking for a line in it."""

from __future__ import annotations

import re
import selectors
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pytest_elastic.controller.peers import RankState

STREAMS: Final = ("stdout.log", "stderr.log")


def files_of(rank: RankState, directory: Path) -> list[Path]:
    """Return the files that a rank writes to.

    Args:
        rank: The rank.
        directory: Directory of the launch's output.
    """
    return [directory / rank.id.world / str(rank.id.rank) / stream for stream in STREAMS]


class OutputWatch:
    """Wakes whoever waits on a selector when a rank has written.

    Args:
        directory: Directory of the launch's output.
        selector: What is woken.

    Attributes:
        polls: The system cannot tell: whoever waits must look from time to time.
    """

    def __init__(self, directory: Path, selector: selectors.BaseSelector) -> None:
        self._directory = directory
        self._selector = selector
        self._watched: set[Path] = set()
        self._inotify: Any = None
        self.polls: Final = sys.platform != "linux"
        if sys.platform == "linux":
            import inotify_simple

            self._inotify = inotify_simple.INotify()
            self._selector.register(self._inotify.fd, selectors.EVENT_READ, lambda: self._inotify.read(timeout=0))

    def follow(self, ranks: Iterable[RankState]) -> None:
        """Watch what these ranks write, too. Whoever looks for something must look at what is there then."""
        if self._inotify is None:
            return
        import inotify_simple

        for rank in ranks:
            directory = files_of(rank, self._directory)[0].parent
            # The agent makes it before it starts the rank, which makes its files by itself.
            if directory not in self._watched and directory.is_dir():
                self._watched.add(directory)
                self._inotify.add_watch(directory, inotify_simple.flags.MODIFY)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._inotify is not None:
            self._selector.unregister(self._inotify.fd)
            self._inotify.close()


class LineSearch:
    """Looks for a whole line in what ranks have written since the launch began, in all rounds.

    Args:
        pattern: What is to be found in a line.
        directory: Directory of the launch's output.
    """

    def __init__(self, pattern: re.Pattern[str], directory: Path) -> None:
        self._pattern = pattern
        self._directory = directory
        self._read: dict[Path, int] = {}

    def find(self, ranks: Iterable[RankState]) -> re.Match[str] | None:
        """Return the first match in what these ranks have written, or ``None``."""
        for rank in ranks:
            for file in files_of(rank, self._directory):
                match = self._find_in(file, last=rank.over())
                if match is not None:
                    return match
        return None

    def _find_in(self, file: Path, *, last: bool) -> re.Match[str] | None:
        offset = self._read.get(file, 0)
        try:
            with file.open("rb") as log:
                log.seek(offset)
                new = log.read()
        except OSError:
            return None  # not there yet
        # A line that has only begun is looked at when it is whole: a number in it may not be complete.
        whole = len(new) if last else new.rfind(b"\n") + 1
        self._read[file] = offset + whole
        for line in new[:whole].decode(errors="replace").splitlines():
            match = self._pattern.search(line)
            if match is not None:
                return match
        return None
