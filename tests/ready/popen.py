"""How the suite starts inner sessions whose server has imported torch already."""

from __future__ import annotations

import inspect
import os
import pickle
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from pytest_elastic.controller.server import SINGLE_THREADED

ZYGOTE: Final = Path(__file__).with_name("zygote.py")
_LOOKS_LIKE: Final = "from multiprocessing.forkserver import main; main(-1, -1, ['pytest_elastic.worker.preload'])"
"""What is in the command line of a server, and of all that is forked from it: some tests look there."""
_SIGNATURE: Final = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
_PIPES: Final = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


class Zygote:
    """The process of this suite's that has imported torch; it is started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def takes(self, command: Any) -> bool:
        """Tell whether a command is one that it can start: a plain ``python -m pytest``, on Linux."""
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
            return False
        words = [os.fspath(word) for word in command]
        return words[:1] == [sys.executable] and (words[1:2] == ["-mpytest"] or words[1:3] == ["-m", "pytest"])

    def start(self, command: Any, environ: dict[str, str], cwd: str, fds: list[int]) -> int:
        """Start a session; return its process id."""
        words = [os.fspath(word) for word in command]
        if self._control is None:
            self._begin()
        assert self._control is not None
        args = words[2:] if words[1] == "-mpytest" else words[3:]
        socket.send_fds(self._control, [pickle.dumps((args, environ, cwd))], fds)
        return int(self._control.recv(100))

    def _begin(self) -> None:
        self._control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(120)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, str(ZYGOTE), str(its.fileno()), _LOOKS_LIKE],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | SINGLE_THREADED,
            )
        assert self._control.recv(100) == b"ready"

    def stop(self) -> None:
        """End the process."""
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.wait(60)
            self._control = self._process = None


def popen_by(zygote: Zygote) -> type[subprocess.Popen[bytes]]:
    """Return a ``Popen`` whose pytest sessions come from a zygote."""

    class ReadyPopen(subprocess.Popen[bytes]):
        def _execute_child(self, *args: Any, **kwargs: Any) -> None:
            given = _SIGNATURE.bind(self, *args, **kwargs).arguments
            fds = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
            if not zygote.takes(given["args"]) or given["pass_fds"] or given["preexec_fn"]:
                super()._execute_child(*args, **kwargs)  # type: ignore[misc]
                return
            environ = dict(os.environ if given["env"] is None else given["env"])
            cwd = os.getcwd() if given["cwd"] is None else os.fspath(given["cwd"])
            standard = [fd if fd != -1 else number for number, fd in enumerate(fds)]
            self.pid = zygote.start(given["args"], environ, cwd, standard)
            self._child_created = True
            self._close_pipe_fds(*(given[name] for name in _PIPES))  # type: ignore[attr-defined]

    return ReadyPopen
