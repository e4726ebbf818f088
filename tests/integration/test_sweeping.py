"""Which processes count as left behind by a rank, when a launch is over."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import kernel
from pytest_elastic.controller.server import PreloadedServer
from pytest_elastic.controller.sweeping import sweep
from pytest_elastic.forking import Task, read_status
from pytest_elastic.worker.joining import NAME

NAMED = "from pytest_elastic import kernel; kernel.set_name({!r}); import time; time.sleep(1000)"
# Spawned processes are executed; what a rank spawns has its variables.
SPAWNED = """
import os, sys
os.environ.update({variables})
code = "from multiprocessing.spawn import spawn_main; import time; time.sleep(1000)"
os.execv(sys.executable, [sys.executable, "-c", code])
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PreloadedServer]:
    server = PreloadedServer(invocation_dir=tmp_path, directory=tmp_path, torch_only=True)
    server.enter()
    assert server.preloaded(60) is not None
    yield server
    server.stop()


def fork(server: PreloadedServer, target: Any, argument: object) -> int:
    status = server.fork(Task("forked", target, (argument,)), cwd=os.getcwd(), sys_path=[], fds=[])
    with open(status, "rb") as stream:
        return read_status(stream.read(8))


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        kernel.pause(0.01)


def test_a_rank_that_has_not_started_is_ended_without_a_word(server: PreloadedServer) -> None:
    """The launch ends while its agent is starting a rank: nobody has heard of it, and it has left nothing behind."""
    unheard = [fork(server, time.sleep, 1000), fork(server, exec, SPAWNED.format(variables={}))]
    # By a rank, and by one whose fork has a name of its own.
    forked = [fork(server, exec, NAMED.format(name)) for name in (f"{NAME}3", "pt_data_worker")]
    spawned = fork(server, exec, SPAWNED.format(variables={"RANK": "3"}))
    name = kernel.name_of(server.pid)
    wait_until(lambda: all(kernel.name_of(pid) != name for pid in forked))
    wait_until(lambda: all("spawn_main" in kernel.command_line(pid) for pid in (unheard[1], spawned)))
    with ExitStack() as over:
        handles = [over.enter_context(closing(kernel.ProcessHandle(pid))) for pid in (*unheard, *forked, spawned)]
        told = sweep(server, {})
        assert sorted(told)[:2] == sorted(f"a rank left process {pid} (forked by the rank) behind" for pid in forked)
        (line,) = (line for line in told if f"process {spawned} (" in line)
        assert len(told) == 3
        assert f"process {spawned} (python -c from multiprocessing.spawn import spawn_main" in line.replace(
            Path(sys.executable).name, "python"
        )
        assert not any(handle.alive() for handle in handles)
