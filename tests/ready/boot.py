"""The beginning of an inner session: has it use the server that was forked for it, then is ``python -m pytest``."""

from __future__ import annotations

import inspect
import os
import pickle
import runpy
import socket
import subprocess
import sys
from typing import Any

_MATTERS = ("PYTHON", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "TORCH", "LD_", "GLIBC", "MALLOC")
"""How variables begin that an import of torch may depend on; not PYTHONPATH, which the server applies itself."""


def _use(session: socket.socket, server: int) -> None:
    with open(f"/proc/{server}/environ") as file:
        imported_with = dict(line.split("=", 1) for line in file.read().split("\0") if "=" in line)
    execute = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    signature = inspect.signature(execute)
    unused = [server]

    def execute_child(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        command = given["args"]
        if (
            not unused
            or not isinstance(command, list)
            or command[0] != sys.executable
            or command[-2] != "-c"  # before it are flags, which an environment has set that is compared below
            or "['pytest_elastic.worker.preload']" not in command[-1]
            or _mattering(given["env"]) != _mattering(imported_with)
        ):
            execute(self, *args, **kwargs)
            return
        fds = [*given["pass_fds"], given["c2pwrite"], given["errwrite"]]
        numbers = [*given["pass_fds"], 1, 2]
        order = {"code": command[-1], "environ": dict(given["env"]), "cwd": os.fspath(given["cwd"]), "fds": numbers}
        order["umask"] = os.umask(0o077)
        os.umask(order["umask"])
        socket.send_fds(session, [pickle.dumps(order)], fds)
        session.close()
        self.pid, self._child_created = unused.pop(), True
        self._close_pipe_fds(*(given[name] for name in _PIPES))

    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]


_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def _mattering(environ: Any) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(_MATTERS) and name != "PYTHONPATH"}


_session = socket.socket(fileno=int(sys.argv[2]))
_session.set_inheritable(False)
_use(_session, int(sys.argv[3]))
del sys.argv[1:4]
sys.path[0] = os.getcwd()
runpy._run_module_as_main("pytest")  # type: ignore[attr-defined]
