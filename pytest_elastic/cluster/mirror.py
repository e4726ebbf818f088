"""What the ranks of another machine write, sent to the first controller as it is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pytest_elastic import clock, kernel
from pytest_elastic.cluster.messages import Written

_CHUNK: Final = 1 << 18
_MOST: Final = 1 << 23
"""Bytes of a file that may wait to be sent."""
_KEPT: Final = 1 << 20
"""How many of them are sent where it is more."""
_END: Final = 5.0
_PAUSE: Final = 0.005


class Mirror:
    """The files of one launch that only grow, and those that are complete when it ends.

    Args:
        launch: Name of the launch.
        logs: Directory of what ranks and agents write.
        coverage: Directory of what measured ranks have executed, or ``None``.
        tell: Sends what was written.
        has_room: Tells whether not too much of that is on its way.
    """

    def __init__(
        self,
        launch: str,
        logs: Path,
        coverage: Path | None,
        tell: Callable[[Written], None],
        has_room: Callable[[], bool],
    ) -> None:
        self._launch = launch
        self._logs = logs
        self._coverage = coverage
        self._tell = tell
        self._has_room = has_room
        self._sent: dict[Path, int] = {}

    def look(self) -> bool:
        """Send some of what was written since the last look, as far as there is room; tell whether that was all.

        Never waits: whoever calls it has other things to do.
        """
        return self._look_at("logs", self._logs)

    def _look_at(self, root: str, directory: Path) -> bool:
        complete = True
        for file, size in _files(directory):
            complete = self._send_some(root, directory, file, size) and complete
        return complete

    def catch_up(self, seconds: float) -> None:
        """Send what was written so far, for some seconds at most."""
        self._send_all(self.look, seconds)

    def finish(self) -> None:
        """Send the rest, as far as it is of use: nobody writes any more."""
        self.catch_up(_END)
        directory = self._coverage
        if directory is not None:
            self._send_all(lambda: self._look_at("coverage", directory), _END)

    def _send_all(self, send_some: Callable[[], bool], seconds: float) -> None:
        until = clock.monotonic() + seconds
        while not send_some() and clock.monotonic() < until:
            kernel.pause(_PAUSE)

    def _send_some(self, root: str, directory: Path, file: Path, size: int) -> bool:
        sent = self._sent.get(file)
        if sent is not None and sent >= size:
            return True
        if not self._has_room():
            return False
        offset = sent or 0
        path = str(file.relative_to(directory))

        def tell(data: bytes) -> None:
            self._tell(Written(launch=self._launch, root=root, path=path, offset=offset, data=data))

        if root == "logs" and size - offset > _MOST:
            # Reports show the beginning and the end; a network is no disk.
            left_out = size - offset - _KEPT
            tell(f"\n... ({left_out} bytes are on the machine of the rank only) ...\n".encode())
            offset += left_out
        try:
            with file.open("rb") as stream:
                stream.seek(offset)
                data = stream.read(_CHUNK)
        except OSError:
            data = b""  # removed by a test, or not to be read: it is as if it were empty
        if data or sent is None:
            tell(data)
        self._sent[file] = offset + len(data)
        return not data or offset + len(data) >= size


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
