"""A process of multiprocessing's start method spawn that is forked from a preloaded server instead."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import resource
import signal
import sys
from multiprocessing import context, popen_forkserver, process, reduction, resource_tracker, spawn, util
from pathlib import Path
from typing import Any, Final

from pytest_elastic import clock, kernel
from pytest_elastic.controller.server import RUN_MARK, PreloadedServer
from pytest_elastic.forking import MOST_FDS, read_status
from pytest_elastic.messages import SpawnOrder

_NUMBER: Final = 8
_PATIENCE: Final = 60.0
"""Seconds for a fork by a server that has said that it is ready."""


class ServerGoneError(Exception):
    """The server forked nothing."""


class TooManyDescriptorsError(Exception):
    """The process needs more descriptors than can be sent to the server."""


class Popen(popen_forkserver.Popen):
    """What a started ``multiprocessing.Process`` has; it looks like that of a spawned one.

    Args:
        process_obj: The process.
        server: A server that is ready.

    Raises:
        ServerGoneError: The server is gone, or does not answer.
        TooManyDescriptorsError: This process must be spawned.
    """

    method = "spawn"

    def __init__(self, process_obj: process.BaseProcess, server: PreloadedServer) -> None:
        self._server = server
        super().__init__(process_obj)

    def _launch(self, process_obj: process.BaseProcess) -> None:
        server = self._server
        del self._server  # the process may outlive the session
        streams = self._standard_streams()
        # Before the process object is pickled: that may name the tracker's resources.
        tracker_fd: Any = resource_tracker.getfd()
        preparation, pickled = io.BytesIO(), io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj.name), preparation)
            reduction.dump(process_obj, pickled)
        finally:
            context.set_spawning_popen(None)
        fds: list[int] = self._fds  # type: ignore[attr-defined]
        if len(fds) > MOST_FDS:
            raise TooManyDescriptorsError
        order = SpawnOrder(
            environ={**kernel.environment(), RUN_MARK: server.run},
            streams=streams,
            umask=_umask(),
            limits=_limits(),
            cpus=frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            ignored=frozenset(sig for sig in signal.valid_signals() if signal.getsignal(sig) is signal.SIG_IGN),
            blocked=frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            preparation=preparation.getvalue(),
            process=pickled.getvalue(),
        )
        try:
            self.sentinel, data_w = server.address.connect(fds, tracker_fd)
        except OSError as error:
            raise ServerGoneError(f"cannot reach it: {error}") from error
        # The other end of it tells the new process, as long as it is open, that its parent lives.
        self.finalizer = util.Finalize(self, util.close_fds, (self.sentinel, data_w))  # type: ignore[attr-defined]
        try:
            self.pid = self._read_pid()
        except ServerGoneError:
            self.finalizer()
            raise
        # Two pickles, one after the other, as multiprocessing's server expects: the first prepares nothing.
        with open(data_w, "wb", closefd=False) as stream:
            stream.write(pickle.dumps({}) + pickle.dumps(order))

    def _standard_streams(self) -> tuple[int | None, ...]:
        """Hand down standard input, output and error as they are now, without those that are closed."""
        found: list[int | None] = []
        for fd in (0, 1, 2):
            try:
                os.fstat(fd)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                found.append(None)
            else:
                found.append(self.duplicate_for_child(fd))
        return tuple(found)

    def _read_pid(self) -> int:
        data, deadline = b"", clock.monotonic() + _PATIENCE
        while len(data) < _NUMBER:
            if not kernel.readable(self.sentinel, max(0.0, deadline - clock.monotonic())):
                raise ServerGoneError(f"it did not answer within {_PATIENCE:g} s")
            chunk = os.read(self.sentinel, _NUMBER - len(data))
            if not chunk:
                raise ServerGoneError("it ended")
            data += chunk
        return read_status(data)

    def _send_signal(self, sig: int) -> None:
        # The server reaps the process when it ends, and its number may be another one's then.
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)


def _umask() -> int | None:
    """Return the umask without changing it for a moment, which other threads would see."""
    if sys.platform != "linux":
        return None
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return None


def _limits() -> dict[int, tuple[int, int]]:
    found: dict[int, Any] = {}
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            with contextlib.suppress(OSError, ValueError):  # known to the C library only
                what = getattr(resource, name)
                found[what] = resource.getrlimit(what)
    return found
