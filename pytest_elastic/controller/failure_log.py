"""The log of a run's failures: each is on disk the moment it is known, whatever becomes of the session after it."""

from __future__ import annotations

import errno
import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Final

from pytest_elastic.messages import RankCaught, RankExited, RankFailed, RankId, RankReport
from pytest_elastic.report.describe import one_line, signal_name
from pytest_elastic.report.judgement import load

FILE_NAME: Final = "failures.log"


class FailureLog:
    """Appends the failures of one launch to a file that all tests, and all workers of pytest-xdist, share.

    Args:
        file: The file.
        nodeid: The test.
    """

    def __init__(self, file: Path, nodeid: str) -> None:
        self._file = file
        self._nodeid = nodeid
        self._told: set[RankId] = set()
        self._unwritten = False

    def note(self, message: RankFailed | RankCaught | RankReport | RankExited) -> str:
        """Write down what a rank says of its failure, or its exit code where it says nothing.

        Returns:
            Why that was not possible, the first time; else an empty text. The verdict does not depend on it.
        """
        text = self._text_of(message)
        if text is None:
            return ""
        self._told.add(message.id)
        now = datetime.now().isoformat(sep=" ", timespec="milliseconds")
        try:
            self._append(f"{now} {self._nodeid} [rank {message.id.rank}] {text}\n")
        except OSError as error:
            said, self._unwritten = self._unwritten, True
            return "" if said else f"--elastic-log-dir: cannot write to {self._file}: {error.strerror}"
        return ""

    def _text_of(self, message: RankFailed | RankCaught | RankReport | RankExited) -> str | None:
        if isinstance(message, RankReport):
            return None if message.stopped else f"{message.when} failed\n{load(message).longreprtext}"
        if isinstance(message, RankCaught):
            return f"{message.when}: {one_line(message.type, message.message)}"
        if isinstance(message, RankFailed):
            return f"{one_line(message.type, message.message)}\n{message.traceback}".rstrip()
        if message.stopped or message.id in self._told:
            return None
        name = signal_name(message.exitcode)
        return f"killed by {name}" if name is not None else f"exited with code {message.exitcode}"

    def _append(self, text: str) -> None:
        # One write to a file that is opened to append: what several processes write does not mix.
        # Where others can write they may have put something there first: a link, a pipe, a file that they can read.
        ways = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        log = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | ways, 0o600)
        try:
            _refuse_planted(os.fstat(log))
            os.write(log, text.encode(errors="backslashreplace"))
        finally:
            os.close(log)


def _refuse_planted(found: os.stat_result) -> None:
    """Refuse a file that somebody else has made, or can write to; devices only root can make.

    Raises:
        PermissionError: It is one.
    """
    own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    if stat.S_ISCHR(found.st_mode) or (own and found.st_nlink == 1):
        return
    names = f" with {found.st_nlink} names" if own else ""
    raise PermissionError(
        errno.EPERM,
        f"it is {stat.filemode(found.st_mode)} of user {found.st_uid}{names}, expected a file of user {os.getuid()} "
        "that nobody else can write to",
    )
