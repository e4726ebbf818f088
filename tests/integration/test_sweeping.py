"""Which processes count as left behind by a rank, when a launch is over."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic import kernel
from pytest_elastic.controller.server import PreloadedServer
from pytest_elastic.controller.sweeping import sweep
from pytest_elastic.forking import Task, read_status
from pytest_elastic.worker.joining import NAME

STARTED = f"from pytest_elastic import kernel; kernel.set_name('{NAME}3'); import time; time.sleep(1000)"


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


def test_a_rank_that_has_not_started_is_ended_without_a_word(server: PreloadedServer) -> None:
    """The launch ends while its agent is starting a rank: nobody has heard of it, and it has left nothing behind."""
    unheard = fork(server, time.sleep, 1000)
    forked_by_a_rank = fork(server, exec, STARTED)
    deadline = time.monotonic() + 60
    while not kernel.name_of(forked_by_a_rank).startswith(NAME):
        assert time.monotonic() < deadline
        kernel.pause(0.01)
    with closing(kernel.ProcessHandle(unheard)) as first, closing(kernel.ProcessHandle(forked_by_a_rank)) as second:
        assert sweep(server, {}) == [f"a rank left process {forked_by_a_rank} (forked by the rank) behind"]
        assert not first.alive()
        assert not second.alive()
