"""A small process that outlives pytest by a moment: it ends what carries a run's mark once pytest is gone.

Ranks, agents and the server die with pytest by the kernel's hand. This is for what that cannot reach: processes that
ranks started, systems without it, and the run's directory. It ends nothing that does not carry the mark, and does
nothing if pytest dismisses it. Standard library only; run by its path.
"""

from __future__ import annotations

import contextlib
import glob
import os
import select
import shutil
import signal
import sys
import time

_PATIENCE = 2.0
_ABANDONED = 1.0
"""Seconds that a worker gets to end in order after its main process."""


def marked_processes(mark: bytes) -> list[int]:
    """Return the processes of this user whose environment holds the mark (Linux; elsewhere none are found)."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                pass
    return found


def end_marked(mark: bytes) -> None:
    """Kill the marked processes, and those that they start meanwhile."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        pids = marked_processes(mark)
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Killed processes need a moment to go; nobody here is told when they have.
        select.select([], [], [], 0.01)


def _wait_with_main_process(main: int, watched: list[int], mark: bytes) -> None:
    """End what a worker has started if its main process is gone: nobody wants it, but the worker may go on for long.

    execnet gives it five seconds, more under load.
    """
    ready, _, _ = select.select([main, *watched], [], [])
    if ready == [main] and not select.select(watched, [], [], _ABANDONED)[0]:
        end_marked(mark)


def main(pytest_pid: int, directory: str, main_pid: int) -> None:
    """Wait for pytest to end or to dismiss this process.

    Args:
        pytest_pid: The pytest whose run it is.
        directory: Directory of the run.
        main_pid: The main process if that pytest is a worker of pytest-xdist, else 0.
    """
    watched = [sys.stdin.fileno()]
    # Where there is no such thing, the closing of standard input tells too, if no fork of pytest holds it open.
    with contextlib.suppress(AttributeError, OSError):
        watched.append(os.pidfd_open(pytest_pid))
    name = os.path.basename(directory)
    mark = f"PYTEST_ELASTIC_RUN={name}".encode()
    if main_pid:
        with contextlib.suppress(AttributeError, OSError):
            _wait_with_main_process(os.pidfd_open(main_pid), watched, mark)
    ready, _, _ = select.select(watched, [], [])
    if sys.stdin.fileno() in ready and os.read(0, 1) == b"q":
        return
    end_marked(mark)
    for semaphore in glob.glob(f"/dev/shm/sem.{glob.escape(name)}-*"):
        with contextlib.suppress(OSError):  # anybody may have made a file of that name
            os.unlink(semaphore)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
