"""What to do where the machine, or a limit that it sets, has run out of something."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import Final

from pytest_elastic.errors import ElasticError

_SEMAPHORES: Final = "/dev/shm"
_OS_ERROR: Final = re.compile(r"\w+Error: \[Errno (\d+)\] ")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def remedy(error: BaseException) -> str:
    """Return what is scarce and what to do about it, or an empty text if the error says nothing of that.

    Args:
        error: What was raised in this process.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EMFILE:
        return f"this process may open {_limit('RLIMIT_NOFILE')} files; raise `ulimit -n`, or launch fewer ranks"
    if number == errno.ENFILE:
        return "the system has no more open files to give; end other processes, or raise fs.file-max"
    if number == errno.EAGAIN or (isinstance(error, RuntimeError) and "start new thread" in str(error)):
        return (
            f"this user may have {_limit('RLIMIT_NPROC')} processes and threads; raise `ulimit -u` (or the pids limit "
            "of the container), or launch fewer ranks"
        )
    if number in _FULL:
        return "make room there, or set TMPDIR or --elastic-log-dir to a directory that has some"
    if number == errno.EROFS:
        return "set TMPDIR or --elastic-log-dir to a directory that can be written to"
    if number == errno.ENOMEM or isinstance(error, MemoryError):
        return "there is no memory left; launch fewer ranks"
    if _needs_semaphore(error) and not os.access(_SEMAPHORES, os.W_OK | os.X_OK):
        return f"semaphores need {_SEMAPHORES}, which is missing or cannot be written to: mount a tmpfs there"
    return ""


def remedy_in(text: str) -> str:
    """Return the remedy for the error that ends a text, such as the last words of a process; empty if there is none."""
    errors = [match for line in text.splitlines() if (match := _OS_ERROR.match(line))]
    return remedy(OSError(int(errors[-1][1]), "")) if errors else ""


def _needs_semaphore(error: BaseException) -> bool:
    # multiprocessing's semaphores are the one thing that fails so without naming a file.
    return isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOENT, errno.EACCES)


def _limit(name: str) -> str:
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import resource

        soft, _ = resource.getrlimit(getattr(resource, name))
        return "any number of" if soft == resource.RLIM_INFINITY else str(soft)
    return "a limited number of"


class Scarcity:
    """A context in which what fails for want of something is told in one line.

    It raises an :class:`ElasticError` that says what was scarce; any other error is raised as it is.

    Args:
        what: What failed then, as the beginning of the line.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        __tracebackhide__ = True
        advice = remedy(error) if error is not None else ""
        if advice:
            raise ElasticError(f"{self._what}: {type(error).__name__}: {error} ({advice})") from None
