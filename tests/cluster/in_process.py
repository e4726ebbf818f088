"""Runs a session as one of two controllers again and again in one process, and says what is left. Run as a module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import pytest

from .controllers import free_port

SETTLED = 10.0
"""Seconds after which nothing of a session is left: the first hangs up a second after its end."""


def state() -> dict[str, object]:
    """Return what this process has."""
    me = psutil.Process()
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": me.num_fds(),
        "sockets": len(me.net_connections(kind="all")),
        "children": len(me.children(recursive=True)),
        "temporary files": [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("elastic-")],
        "environment": sorted(os.environ),
    }


def session(rank: int) -> list[int]:
    """Run one session; return the exit codes of this controller and of the other one."""
    with free_port() as port:
        command = ["-p", "elastic", "-p", "no:cacheprovider", "-q", "--elastic-nodes=2", "test_it.py"]
        command += [f"--elastic-rdzv-endpoint=127.0.0.1:{port}"]
        other = [sys.executable, "-m", "pytest", *command, f"--elastic-node-rank={1 - rank}"]
        with subprocess.Popen(other, stdout=subprocess.DEVNULL) as process:
            code = int(pytest.main([*command, f"--elastic-node-rank={rank}"]))
            return [code, process.wait(120)]


def main() -> None:
    """Run three sessions, and compare what is there after the first and after the last."""
    rank = int(sys.argv[1])
    codes = [session(rank)]
    time.sleep(2)  # until the first has hung up
    before = state()
    codes += [session(rank), session(rank)]
    until = time.monotonic() + SETTLED
    while (after := state()) != before and time.monotonic() < until:
        time.sleep(0.1)
    print(json.dumps({"codes": codes, "before": before, "after": after}))


if __name__ == "__main__":
    main()
