"""A multiprocessing start method that forks from *our* preloaded server.

torch's agent starts its workers by ``multiprocessing.get_context(name)``. Under the name :data:`START_METHOD` it finds
the context below, whose processes are forked by the server of this session. The start method ``"forkserver"`` and its
global server stay the user's.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import context, popen_forkserver, process, reduction, spawn, util
from typing import Any, ClassVar, Final

START_METHOD: Final = "pytest_elastic"
_SIGNED: Final = struct.Struct("q")
_MAX_FDS: Final = 256


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a preloaded server takes requests to fork.

    Attributes:
        path: Its Unix socket, in a directory that is private to the user.
        alive_fd: Write end of the pipe whose closing ends the server.
    """

    path: str
    alive_fd: int

    def request(self, payload: bytes | memoryview, fds: list[int]) -> int:
        """Ask for a new process.

        Args:
            payload: Two pickles, one after the other: preparation data, and an object with ``_bootstrap``.
            fds: Descriptors that the new process inherits.

        Returns:
            A descriptor from which the id of the process and later its exit code can be read, eight bytes each.

        Raises:
            OSError: The server is gone.
        """
        if len(fds) + 4 >= _MAX_FDS:
            raise ValueError(f"cannot hand {len(fds)} descriptors to a process; at most {_MAX_FDS - 5} are possible")
        status_r, status_w = os.pipe()
        data_r, data_w = os.pipe()
        # multiprocessing passes its resource tracker along; the server has one of its own (worker/preload.py).
        no_tracker = os.open(os.devnull, os.O_WRONLY)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)
                reduction.sendfds(client, [data_r, status_w, self.alive_fd, no_tracker, *fds])
            os.close(data_r)
            data_r = -1
            with open(data_w, "wb", closefd=False) as stream:
                stream.write(payload)
        except BaseException:
            os.close(status_r)
            raise
        finally:
            for fd in (data_r, data_w, status_w, no_tracker):
                if fd >= 0:
                    os.close(fd)
        return status_r


def read_status(data: bytes) -> int:
    """Decode one of the two numbers that a status descriptor gives."""
    return int(_SIGNED.unpack(data)[0])


class Popen(popen_forkserver.Popen):
    """A process forked by our server, for ``multiprocessing.Process``."""

    method = START_METHOD
    server: ClassVar[ServerAddress]

    def _launch(self, process_obj: process.BaseProcess) -> None:
        buffer = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            preparation = spawn.get_preparation_data(process_obj.name)
            # A rank finds the start method that a fresh interpreter has, and may still set its own.
            preparation.pop("start_method", None)
            reduction.dump(preparation, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            context.set_spawning_popen(None)
        self.sentinel = self.server.request(buffer.getbuffer(), self._fds)  # type: ignore[attr-defined]
        self.finalizer = util.Finalize(
            self,
            util.close_fds,  # type: ignore[attr-defined]
            (self.sentinel,),
        )
        data = b""
        while len(data) < _SIGNED.size:
            chunk = os.read(self.sentinel, _SIGNED.size - len(data))
            if not chunk:
                raise EOFError("the preloaded server ended before it forked a worker")
            data += chunk
        self.pid = read_status(data)


class Process(process.BaseProcess):
    """A process of the context below."""

    _start_method = None  # what the child makes its own default: none

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:  # noqa: N802 (multiprocessing's name)
        return Popen(process_obj)


class ElasticContext(context.BaseContext):
    """What ``multiprocessing.get_context("pytest_elastic")`` returns."""

    _name = START_METHOD
    Process = Process


def install(server: ServerAddress) -> None:
    """Make :data:`START_METHOD` known to multiprocessing in this process, forking from ``server``."""
    Popen.server = server
    # The one register of start methods that multiprocessing has; get_context() reads nothing else.
    context._concrete_contexts[START_METHOD] = ElasticContext()  # type: ignore[attr-defined]


def uninstall() -> None:
    """Forget :data:`START_METHOD` again."""
    context._concrete_contexts.pop(START_METHOD, None)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Task:
    """A function that the preloaded server runs in a process of its own.

    Attributes:
        name: Name of the process.
        target: Importable function of the server's.
        args: Its arguments.
    """

    name: str
    target: Callable[..., None]
    args: tuple[Any, ...]

    def _bootstrap(self, parent_sentinel: int) -> int:
        runner = Process(name=self.name, target=self.target, args=self.args)
        return int(runner._bootstrap(parent_sentinel))  # type: ignore[attr-defined]


def pack(task: Task, *, cwd: str, sys_path: list[str]) -> bytes:
    """Pickle a task into what :meth:`ServerAddress.request` sends."""
    preparation = {
        "name": task.name,
        "sys_path": sys_path,
        "dir": cwd,
        "orig_dir": cwd,
        "log_to_stderr": False,
    }
    return pickle.dumps(preparation) + pickle.dumps(task)
