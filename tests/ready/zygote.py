"""A process that has imported torch, and forks from itself the server of each inner session. Run by its path.

A request is the arguments of the session, its environment and its working directory; with it come its standard input,
output and error. The answer is the process id of the session.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import platform
import random
import signal
import socket
import sys
import tempfile
import time
import types
from typing import Any, Final, NoReturn

_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_CLONE_PARENT: Final = 0x8000
MOST: Final = 1 << 20
"""Bytes of a request at most."""
BOOT: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot.py")


def main(control: socket.socket) -> None:
    """Serve requests until the process that sends them has ended."""
    # What the server would import before it is told anything (see worker/preload.py).
    import torch.distributed.elastic.agent.server.local_elastic_agent
    import torch.distributed.launcher.api  # noqa: F401

    import pytest_elastic.agent.main
    import pytest_elastic.worker.importing
    import pytest_elastic.worker.names
    import pytest_elastic.worker.rank  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the suite
    libc = ctypes.CDLL(None, use_errno=True)
    call = _CLONE[platform.machine()]
    control.sendall(b"ready")
    while True:
        data, fds, _, _ = socket.recv_fds(control, MOST, 3)
        if not data:
            return
        args, environ, cwd = pickle.loads(data)
        # A sibling, not a child: whoever asked waits for it. Nothing but exec comes of it, which needs no hooks.
        pid = libc.syscall(call, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            _become_pytest(args, environ, cwd, fds)
        for fd in fds:
            os.close(fd)
        control.sendall(str(pid).encode())


def _become_pytest(args: list[str], environ: dict[str, str], cwd: str, fds: list[int]) -> NoReturn:
    try:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server = os.fork()
        if server == 0:
            its.close()
            for fd in fds:
                os.close(fd)
            _become_server(mine)
        os.chdir(cwd)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.set_inheritable(its.fileno(), True)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(ignored, signal.SIG_DFL)
        boot = "import sys; exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'))"
        os.execve(sys.executable, [sys.executable, "-c", boot, BOOT, f"{its.fileno()}", f"{server}", *args], environ)
    finally:
        os._exit(70)


def _become_server(session: socket.socket) -> NoReturn:
    """Wait for what the session starts its server with, and do that."""
    data, fds, _, _ = socket.recv_fds(session, MOST, 64)
    if not data:
        os._exit(0)  # it needed none
    order = pickle.loads(data)
    session.close()
    os.setsid()
    os.chdir(order["cwd"])
    # Each descriptor has the number that it has there; none is in the way of another.
    far = [os.dup2(fd, 500 + number) for number, fd in enumerate(fds)]
    os.closerange(3, 500)
    for number, fd in zip(order["fds"], far, strict=True):
        os.dup2(fd, number)
    os.closerange(500, 500 + len(far))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(order["environ"])
    path = [os.path.abspath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    old = {os.path.abspath(each) for each in inherited if each}
    sys.path[:] = list(dict.fromkeys(["", *path, *(each for each in sys.path[1:] if each not in old)]))
    sys.argv[:] = ["-c"]
    os.umask(order["umask"])
    # What Python has made up its mind about, and would have when it was started now.
    tempfile.tempdir = None
    random.seed()
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main_module: Any = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    exec(order["code"], vars(main_module))
    os._exit(0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
