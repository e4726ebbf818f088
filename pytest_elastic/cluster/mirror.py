"""What the ranks of another machine write, sent to the first controller as it is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pytest_elastic.cluster.messages import Written

_CHUNK: Final = 1 << 18


class Mirror:
    """The files of one launch that only grow, and those that are complete when it ends.

    Args:
        launch: Name of the launch.
        logs: Directory of what ranks and agents write.
        coverage: Directory of what measured ranks have executed, or ``None``.
        tell: Sends what was written.
        wait_for_room: Waits until not too much of that is on its way.
    """

    def __init__(
        self,
        launch: str,
        logs: Path,
        coverage: Path | None,
        tell: Callable[[Written], None],
        wait_for_room: Callable[[], None],
    ) -> None:
        self._launch = launch
        self._logs = logs
        self._coverage = coverage
        self._tell = tell
        self._wait_for_room = wait_for_room
        self._sent: dict[Path, int] = {}

    def look(self) -> None:
        """Send what was written since the last look."""
        for file, size in _files(self._logs):
            self._send("logs", self._logs, file, size)

    def finish(self) -> None:
        """Send the rest: nobody writes any more."""
        self.look()
        if self._coverage is not None:
            for file, size in _files(self._coverage):
                self._send("coverage", self._coverage, file, size)

    def _send(self, root: str, directory: Path, file: Path, size: int) -> None:
        sent = self._sent.get(file)
        if sent is not None and sent >= size:
            return
        offset = sent or 0
        path = str(file.relative_to(directory))
        try:
            with file.open("rb") as stream:
                stream.seek(offset)
                while True:
                    data = stream.read(_CHUNK)
                    if not data and (offset or sent is not None):
                        break
                    self._wait_for_room()
                    self._tell(Written(launch=self._launch, root=root, path=path, offset=offset, data=data))
                    offset += len(data)
                    if len(data) < _CHUNK:
                        break
        except OSError:
            pass  # removed by a test, or not to be read: it is as if it were empty
        self._sent[file] = offset


def _files(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files below a directory, with their sizes."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path), entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
