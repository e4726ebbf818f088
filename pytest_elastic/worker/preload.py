"""Imported once by the server (``multiprocessing.forkserver``'s preload): everything ranks should find ready.

The import must not raise: the server would end, or go on without telling. What goes wrong is kept in
:data:`~pytest_elastic.worker.server_state.state` and told by each agent that is forked from it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import pickle
import sys
import traceback
import warnings
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Final

from pytest_elastic import kernel
from pytest_elastic.messages import Preloaded
from pytest_elastic.worker import server_state
from pytest_elastic.worker.server_state import ServerState
from pytest_elastic.worker.stacks import STACK_SIGNAL

_LONGEST: Final = 800
"""Characters of an error in the server's answer, which must fit into a pipe."""


def _begin_life() -> None:
    """Run in each process that the server forks, before anything else."""
    state = server_state.state
    if state is None or os.getppid() != state.pid:
        return  # A fork of a rank's own: not ours to bind.
    kernel.die_with_parent(state.pid)
    os.setsid()


def _read_order(fd: int) -> Any:
    with open(fd, "rb") as stream:
        data = stream.read()
    if not data:
        os._exit(0)  # The controller found that it needs no server, or is gone.
    return pickle.loads(data)


def _import_what_ranks_need() -> None:
    """Import what each rank would import when it runs a test."""
    import pytest_elastic.worker.item  # noqa: F401

    if "numpy" in sys.modules:
        import numpy.random  # noqa: F401 (numpy imports it when it is first used: every rank is seeded)


def _load() -> None:
    # Nearly everything that is made here stays; looking for garbage among it takes a tenth of the time.
    gc.disable()
    parent, order_fd, answer_fd, tracker_file, early = json.loads(os.environ.pop("PYTEST_ELASTIC_PRELOAD"))
    kernel.die_with_parent(parent)
    kernel.adopt_orphans()
    # A descriptor of its own: while test files are collected, pytest's capture has taken standard error.
    faulthandler.register(STACK_SIGNAL, file=os.dup(2), all_threads=True)
    state = server_state.state = ServerState(pid=kernel.own_pid())
    os.register_at_fork(after_in_child=_begin_life)
    resource_tracker.ensure_running()
    state.tracker_fd = resource_tracker.getfd()
    # The one child of the server that is no agent and no rank: the controller must know it as such.
    Path(tracker_file).write_text(str(resource_tracker._resource_tracker._pid))  # type: ignore[attr-defined]
    told = False
    try:
        # What agents and ranks need, imported once.
        import torch.distributed.elastic.agent.server.local_elastic_agent
        import torch.distributed.launcher.api  # noqa: F401

        import pytest_elastic.agent.main
        import pytest_elastic.worker.rank  # noqa: F401
        from pytest_elastic.worker.importing import import_all
        from pytest_elastic.worker.loopback import check_loopback
        from pytest_elastic.worker.names import stop_reverse_lookups

        check_loopback()
        stop_reverse_lookups()
        gc.enable()  # a conftest may have an opinion about that
        state.unsafe = import_all(early, tolerated=frozenset(early))
        told = True
        order = _read_order(order_fd)
        if order.session is not None:
            from pytest_elastic.worker.session import RankSession

            state.session = RankSession.collect(order.session)
            state.unsafe = state.session.unsafe
            _import_what_ranks_need()
        if order.sys_path is not None:
            sys.path[:] = order.sys_path
        os.environ.update(order.environ)
        state.unsafe = state.unsafe or import_all(order.modules, tolerated=order.tolerated)
    except BaseException:  # noqa: BLE001 (a SystemExit of a module too: it is the verdict of each elastic test)
        state.broken = traceback.format_exc()
    if not told:
        os.close(order_fd)
    # The server adopts orphans and so reaps processes that multiprocessing's loop did not fork. Said last: filters of
    # the collected session must not make an error of it, which would end the server.
    warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")
    gc.freeze()
    # What is left in a buffer would be written by every process that is forked from here.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    _answer(answer_fd, Preloaded(broken=state.broken and state.broken[-_LONGEST:], unsafe=state.unsafe))


def _answer(fd: int, preloaded: Preloaded) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, pickle.dumps(preloaded))
    os.close(fd)


if "PYTEST_ELASTIC_PRELOAD" in os.environ:
    _load()
