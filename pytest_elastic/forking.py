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
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import context, popen_forkserver, process, reduction, spawn, util
from typing import Any, Final

START_METHOD: Final = "pytest_elastic"
_SIGNED: Final = struct.Struct("q")
MOST_FDS: Final = 245
"""How many descriptors a process can be handed: the kernel takes 253 in a message, and four are ours."""


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
        # multiprocessing passes its resource tracker along; the server has one of its own (worker/preload.py).
        no_tracker = os.open(os.devnull, os.O_WRONLY)
        try:
            status_r, data_w = self.connect(fds, no_tracker)
        finally:
            os.close(no_tracker)
        try:
            with open(data_w, "wb") as stream:
                stream.write(payload)
        except BaseException:
            os.close(status_r)
            raise
        return status_r

    def connect(self, fds: list[int], tracker_fd: int) -> tuple[int, int]:
        """Ask for a new process, and leave it to the caller to send it what it is to do.

        Args:
            fds: Descriptors that the new process inherits.
            tracker_fd: Descriptor of the resource tracker that it uses.

        Returns:
            The descriptor that :meth:`request` returns, and the one to write the payload to.

        Raises:
            OSError: The server is gone.
        """
        if len(fds) > MOST_FDS:
            raise ValueError(f"cannot hand {len(fds)} descriptors to a process; at most {MOST_FDS} are possible")
        status_r, status_w = os.pipe()
        data_r, data_w = os.pipe()
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)
                reduction.sendfds(client, [data_r, status_w, self.alive_fd, tracker_fd, *fds])
        except BaseException:
            os.close(status_r)
            os.close(data_w)
            raise
        finally:
            os.close(data_r)
            os.close(status_w)
        return status_r, data_w


_this_thread: Final = threading.local()


def fresh_interpreters_in_this_thread() -> None:
    """Have what this thread spawns be spawned, also where ``--elastic-spawn=forkserver`` forks it otherwise."""
    _this_thread.fresh = True


def wants_fresh_interpreters() -> bool:
    """Tell whether what this thread spawns must be spawned."""
    return getattr(_this_thread, "fresh", False)


def read_status(data: bytes) -> int:
    """Decode one of the two numbers that a status descriptor gives."""
    return int(_SIGNED.unpack(data)[0])


class Popen(popen_forkserver.Popen):
    """A process forked by our server, for ``multiprocessing.Process``."""

    method = START_METHOD

    def _launch(self, process_obj: process.BaseProcess) -> None:
        server = process_obj.home.server  # type: ignore[attr-defined]
        buffer = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            preparation = spawn.get_preparation_data(process_obj.name)
            # A rank finds the start method that a fresh interpreter has, and may still set its own.
            preparation.pop("start_method", None)
            # By this coverage has processes of multiprocessing measured; ranks measure themselves.
            preparation.pop("stowaway", None)
            reduction.dump(preparation, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            context.set_spawning_popen(None)
        self.sentinel = server.request(buffer.getbuffer(), self._fds)  # type: ignore[attr-defined]
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
    """A process of the context below.

    Attributes:
        home: The context that made it; the new process has none.
    """

    _start_method = None  # what the child makes its own default: none
    home: ElasticContext

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "home"}

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:  # noqa: N802 (multiprocessing's name)
        return Popen(process_obj)


class ElasticContext(context.BaseContext):
    """What ``multiprocessing.get_context`` returns for a name that :func:`install` made known.

    Args:
        name: That name.
        server: The server that forks.
    """

    def __init__(self, name: str, server: ServerAddress) -> None:
        self._name = name
        self._server: ServerAddress | None = server

    @property
    def server(self) -> ServerAddress:
        """The server that forks.

        Raises:
            RuntimeError: It was withdrawn.
        """
        if self._server is None:
            raise RuntimeError("the launch is over; it starts no more processes")
        return self._server

    def Process(self, *args: Any, **kwargs: Any) -> Process:  # noqa: N802
        """Make a process, as the class of that name does in multiprocessing's own contexts."""
        if "args" in kwargs:
            kwargs["args"] = _own_part(kwargs["args"])
        made = Process(*args, **kwargs)
        made.home = self
        return made

    def withdraw(self) -> None:
        """Start no process from now on, whoever still holds this context."""
        self._server = None


def _own_part(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a worker of torch's without what is of other workers.

    torch gives each of them what all get, by local rank: environments, and queues for return values, of which a process
    cannot be handed more descriptors than a message of a Unix socket takes (253 on Linux).
    """
    if len(args) < 3 or type(args[1]) is not int or not isinstance(args[2], tuple):
        return args
    rank = args[1]
    own = tuple({rank: each[rank]} if isinstance(each, dict) and rank in each else each for each in args[2])
    return (*args[:2], own, *args[3:])


def install(server: ServerAddress, name: str = START_METHOD) -> ElasticContext:
    """Make a start method known to multiprocessing in this process, forking from ``server``."""
    made = ElasticContext(name, server)
    # The one register of start methods that multiprocessing has; get_context() reads nothing else.
    context._concrete_contexts[name] = made  # type: ignore[attr-defined]
    return made


def uninstall(made: ElasticContext) -> None:
    """Forget a start method again, also where somebody holds it."""
    made.withdraw()
    context._concrete_contexts.pop(made._name, None)  # type: ignore[attr-defined]


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
