"""The process that owns one etcd: it starts etcd, and removes it and its data when the run has ended.

It is run by file path with ``-I -S -E``, so it imports nothing but a few modules of the standard library and
starts in some 15 ms. Its arguments are the home directory, the pid and the start time of the process whose
end it waits for (the owner), and the command of etcd. SIGTERM ends it, SIGHUP starts etcd again on its data.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

try:
    import ctypes
except ImportError:  # a Python built without libffi
    ctypes = None  # type: ignore[assignment]

LOG = "etcd.log"
STATE = "state"
RUNNING = "running"

# How often the owner is looked at where the kernel has no pidfd.
POLL = 0.1

PR_SET_PDEATHSIG = 1


def started_at(pid: int) -> int:
    """Tell when a process was started, in clock ticks since boot; 0 where there is no ``/proc``.

    Raises:
        ProcessLookupError: There is no such process, or it has ended and was not waited for yet.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            raise ProcessLookupError(pid) from None
        with suppress(PermissionError):  # it is there, and not ours
            os.kill(pid, 0)
        return 0
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(pid)
    return int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Tell whether a process runs and is the one that was started then."""
    try:
        return started_at(pid) == started
    except ProcessLookupError:
        return False


def open_pidfd(pid: int) -> int | None:
    """Open a descriptor that becomes readable when the process ends, where the kernel has that."""
    pidfd_open = getattr(os, "pidfd_open", None)
    if pidfd_open is None:
        return None
    try:
        return int(pidfd_open(pid))
    except OSError:  # an old kernel, a sandbox, or a process that is gone: polling finds out which
        return None


def remove_tree(top: str) -> None:
    """Remove a directory with all that is in it; what is gone already is no error."""
    for folder, _, files in os.walk(top, topdown=False):
        for name in files:
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))
        with suppress(OSError):
            os.rmdir(folder)


class Keeper:
    """One etcd, and the process whose end it must not outlive.

    Args:
        home: The directory of etcd's data, its log and our state.
        owner: Pid and start time of the process to watch.
        command: The command of etcd.
    """

    def __init__(self, home: str, owner: tuple[int, int], command: list[str]) -> None:
        self.home = home
        self.owner = owner
        self.command = command
        self.run = 0
        self.pid = 0
        self.started = 0
        self.running = False
        self.prctl = getattr(ctypes.CDLL(None), "prctl", None) if ctypes else None

    def start(self) -> None:
        """Start etcd, unless it runs."""
        if self.running:
            return
        keeper = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            self.become_etcd(keeper)
        try:
            self.started = started_at(self.pid)
        except ProcessLookupError:
            self.started = 0  # it failed at once; reap() tells how
        self.run += 1
        self.running = True
        self.write_state(RUNNING)

    def become_etcd(self, keeper: int) -> None:
        """Be etcd: in a session of its own, killed by the kernel when the keeper dies."""
        try:
            log = os.open(os.path.join(self.home, LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.setsid()
            if self.prctl is not None:
                self.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
            if os.getppid() == keeper:  # else it died before the line above
                os.execv(self.command[0], self.command)
        except OSError as error:
            os.write(2, f"cannot start {self.command[0]}: {error}\n".encode())
        finally:
            os._exit(127)

    def write_state(self, end: str) -> None:
        """Tell who we are, the how many-th etcd this is, its pid and start time, and how it ended."""
        path = os.path.join(self.home, STATE)
        keeper = os.getpid()
        with open(path + ".new", "w") as file:
            file.write(f"{keeper} {started_at(keeper)} {self.run} {self.pid} {self.started} {end}\n")
        os.replace(path + ".new", path)

    def reap(self) -> None:
        """Take note of etcd's end, if it has ended; its data and its log stay."""
        if self.running:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.running = False
                self.write_state(str(os.waitstatus_to_exitcode(status)))

    def watch(self) -> None:
        """Serve signals until one says to stop, or until the owner ends."""
        wake, wake_write = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        owner = open_pidfd(self.owner[0])
        watched = [wake] if owner is None else [wake, owner]
        # Only now: a pidfd of a pid that had been given to another process would be of that one.
        if is_alive(*self.owner):
            self.start()
        while is_alive(*self.owner):
            ready = select.select(watched, [], [], POLL if owner is None else None)[0]
            told = os.read(wake, 4096) if wake in ready else b""
            self.reap()
            if signal.SIGTERM in told:
                return
            if signal.SIGHUP in told:
                self.start()

    def end(self) -> None:
        """Kill etcd with all that it may have started, and remove its home."""
        if self.running:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # between its fork and its setsid
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        remove_tree(self.home)


def main(arguments: list[str]) -> None:
    """Detach from the starter, then keep etcd."""
    home, pid, started, *command = arguments
    keeper = Keeper(home, (int(pid), int(started)), command)
    if os.fork():
        os._exit(0)  # the starter waits for this one only, and so has no child of ours that it had to reap
    os.setsid()
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        keeper.watch()
    finally:
        keeper.end()


if __name__ == "__main__":
    main(sys.argv[1:])
