"""The few things that only the operating system can do: end with a parent, hold a process by its identity."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import select
import signal
import sys
from pathlib import Path
from typing import Final

from pytest_elastic import clock
from pytest_elastic.pid import own_pid as own_pid

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
# Bound once, as the clock: a test may replace what the module has.
_new_poll: Final = select.poll
_LINUX: Final = sys.platform == "linux"
# Looked up once: a forked child must not search for libraries before it has asked to die with its parent.
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if _LINUX else None


def die_with_parent(parent: int) -> None:
    """Have this process killed (SIGKILL) when its parent ends.

    The kernel ties this to the *thread* that forked, so parents fork from a thread that lives as long as they do.

    Args:
        parent: Process id that the parent is expected to have. If it is another one already, the parent ended
            before the request was in force, and this process ends at once.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own, so that none gets out of sight."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def flush_c_streams() -> None:
    """Write out what C code has printed: a process that ends by ``os._exit`` loses it otherwise."""
    if _LIBC is not None:
        _LIBC.fflush(None)


def environment() -> dict[str, str]:
    """Return the environment that a program would inherit: C code may have set more in it than ``os.environ`` knows."""
    if _LIBC is None:
        return dict(os.environ)
    found: dict[str, str] = {}
    entries = ctypes.POINTER(ctypes.c_char_p).in_dll(_LIBC, "environ")
    for number in itertools.count():
        entry = entries[number]
        if entry is None:
            break
        name, equals, value = os.fsdecode(entry).partition("=")
        if equals:
            found.setdefault(name, value)
    return found


def children(pid: int) -> set[int]:
    """Return the process ids of the direct children of ``pid``; empty if it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        # No such file: macOS, a kernel without it, or the process is gone. psutil knows a slower way.
        import psutil

        try:
            return {child.pid for child in psutil.Process(pid).children()}
        except psutil.NoSuchProcess:
            return set()
    except ProcessLookupError:
        return set()
    return {int(word) for word in text.split()}


def descendants(pid: int) -> set[int]:
    """Return the process ids of all descendants of ``pid``."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        new = children(todo.pop()) - found
        found |= new
        todo += new
    return found


def command_line(pid: int) -> str:
    """Return the command line of a process, or an empty text if it is gone or about to be."""
    import psutil

    try:
        process = psutil.Process(pid)
        # A process that is just ending has neither a command line nor an executable any more.
        return " ".join(process.cmdline()) or (process.name() if process.exe() else "")
    except psutil.Error:
        return ""


def had_variable(pid: int, name: str) -> bool:
    """Tell whether a process had a variable in its environment when it was executed."""
    import psutil

    try:
        return name in psutil.Process(pid).environ()
    except psutil.Error:
        return False


def set_name(name: str) -> None:
    """Give this process a name, as ``ps`` and ``top`` show it; its forks have it too, what it executes has not.

    Args:
        name: 15 bytes of it count.
    """
    if _LINUX:
        with contextlib.suppress(OSError):  # a name is not worth a failure
            Path("/proc/self/comm").write_text(name)


def name_of(pid: int) -> str:
    """Return the name of a process, or an empty text if it is gone, or this is not Linux."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _signal_main_thread(pid: int, signum: int) -> bool:
    """Send a signal to the main thread of a process; return whether this system can.

    A signal to a process that is stopped is taken by whichever thread wakes first, and while that one acts on it the
    main thread runs on: to write the stack of a thread that runs is what faulthandler does not survive.
    """
    if _LIBC is None or not hasattr(_LIBC, "tgkill"):
        return False
    return bool(_LIBC.tgkill(pid, pid, int(signum)) == 0)


def is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped by a signal such as SIGSTOP."""
    import psutil

    try:
        return str(psutil.Process(pid).status()) == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def raw_environ() -> dict[bytes, bytes]:
    """Return the environment as the system has it, without what pytest itself changes from test to test.

    Undecoded, because it is looked at several times a test.
    """
    variables = dict(os.environ._data)  # type: ignore[attr-defined]
    variables.pop(b"PYTEST_CURRENT_TEST", None)
    return variables


def readable(fd: int, timeout: float) -> bool:
    """Wait until a descriptor can be read or its other end is closed, ``timeout`` seconds at most; tell if it can."""
    poll = _new_poll()  # select() knows descriptors below 1024 only
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def pause(seconds: float) -> None:
    """Let a moment pass, between two looks at what nobody announces."""
    _new_poll().poll(seconds * 1000)


class ProcessHandle:
    """A process that this one did not fork, held so that its id can never mean another process.

    Attributes:
        pid: Process id.
        fd: Descriptor that becomes readable when the process has ended; ``None`` where the system has none.
    """

    def __init__(self, pid: int) -> None:
        self.pid: Final = pid
        self.fd: int | None = None
        self._gone = False
        if _LINUX:
            try:
                self.fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._gone = True
            except OSError as error:
                # Somebody who ends what is left when descriptors have run out gets no further one.
                if error.errno != errno.EMFILE:
                    raise

    def alive(self) -> bool:
        """Tell whether the process still runs."""
        if self._gone:
            return False
        if self.fd is not None:
            self._gone = readable(self.fd, 0)
        else:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                self._gone = True
        return not self._gone

    def wait(self, timeout: float) -> bool:
        """Wait for the process to end, ``timeout`` seconds at most; return whether it has."""
        if self.fd is not None and not self._gone:
            self._gone = readable(self.fd, timeout)
            return self._gone
        deadline = clock.monotonic() + timeout
        while self.alive() and clock.monotonic() < deadline:
            pause(0.01)
        return not self.alive()

    def send(self, signum: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if not self.alive():
            return
        try:
            if self.fd is not None:
                signal.pidfd_send_signal(self.fd, signum)
            else:
                os.kill(self.pid, signum)
        except ProcessLookupError:
            self._gone = True

    def wake_by(self, signum: int) -> bool:
        """Send a signal, on which a stopped process acts first when it goes on; return whether it was stopped."""
        if not is_stopped(self.pid):
            self.send(signum)
            return False
        if not self.alive() or not _signal_main_thread(self.pid, signum):
            self.send(signum)
        self.send(signal.SIGCONT)
        return True

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
            self._gone = True
