"""An agent in a thread of the pytest process (``agent="inline"``), for tests that patch torch's agent.

What it changes in the process it changes through an :class:`Undo`, so that whoever gives a stuck agent up can change it
back; what can be is limited to the agent's own thread.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch.distributed.elastic.agent.server import api as agent_api

from pytest_elastic import forking
from pytest_elastic.agent import etcd_lease
from pytest_elastic.agent.launch import launch
from pytest_elastic.agent.rendezvous import shared_store_restored
from pytest_elastic.channel import Outbox
from pytest_elastic.forking import START_METHOD, ServerAddress
from pytest_elastic.messages import AgentFinished, AgentOrder
from pytest_elastic.worker.names import stop_reverse_lookups

_NOISY = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")


class Undo:
    """What is to be undone when an agent has ended or is given up; any thread may do it, and the first one does."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._done = False

    def enter(self, change: AbstractContextManager[object]) -> None:
        """Make a change that is to be undone.

        Raises:
            RuntimeError: Everything was undone already.
        """
        with self._lock:
            self._refuse_late()
            self._stack.enter_context(change)

    def call(self, back: Callable[[], object]) -> None:
        """Take note of how to undo something; do so at once if everything was undone already.

        Raises:
            RuntimeError: Everything was undone already.
        """
        with self._lock:
            if not self._done:
                self._stack.callback(back)
                return
        back()
        self._refuse_late()

    def all(self) -> None:
        """Undo everything, the last change first."""
        with self._lock:
            if not self._done:
                self._done = True
                self._stack.close()

    def _refuse_late(self) -> None:
        if self._done:
            raise RuntimeError("the launch is over")


def run(order: AgentOrder, server: ServerAddress, store_fd: int | None, undo: Undo) -> AgentFinished:
    """Run the agent and tell the controller, which listens in another thread of this process."""
    outbox = Outbox(order.channel, order.key)
    undo.call(outbox.close)
    # A name of its own: an agent that was given up and wakes up later does not find that of another launch.
    start_method = forking.install(server, f"{START_METHOD}-{order.launch}")
    undo.call(lambda: forking.uninstall(start_method))
    forking.fresh_interpreters_in_this_thread()
    stop_reverse_lookups()
    for change in (
        etcd_lease.quiet(),
        _plain_hostname(),
        _temporary_files_in(order.scratch),
        shared_store_restored(),
    ):
        undo.enter(change)
    # Not among what is undone early: it is about this thread only, and is wanted when a stuck one wakes up.
    with _no_error_records():
        finished = launch(order, outbox.send, store_fd, start_method=start_method.get_start_method())
    outbox.send(finished)
    return finished


@contextmanager
def _plain_hostname() -> Iterator[None]:
    """Keep torch from asking DNS for the host's full name, which it does for each event."""
    before = agent_api._get_fq_hostname
    agent_api._get_fq_hostname = socket.gethostname
    try:
        yield
    finally:
        agent_api._get_fq_hostname = before


class _Files:
    """The module ``tempfile``, but named files of one thread are made in a directory of its own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._thread = threading.get_ident()

    def NamedTemporaryFile(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 (tempfile's name)
        if threading.get_ident() == self._thread and os.path.isdir(self._directory):
            kwargs.setdefault("dir", self._directory)
        return tempfile.NamedTemporaryFile(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(tempfile, name)


@contextmanager
def _temporary_files_in(directory: str) -> Iterator[None]:
    """Have the files that torch leaves for each failed worker go with the launch."""
    # Not "from torch.multiprocessing import": that name is a function there.
    spawn: Any = importlib.import_module("torch.multiprocessing.spawn")
    before = spawn.tempfile
    spawn.tempfile = _Files(directory)
    try:
        yield
    finally:
        spawn.tempfile = before


@contextmanager
def _no_error_records() -> Iterator[None]:
    """Keep back what torch logs of failed workers: the launch tells it, and formatting it imports torch._dynamo."""
    thread = threading.get_ident()

    def let_through(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.CRITICAL

    loggers = [logging.getLogger(name) for name in _NOISY]
    for logger in loggers:
        logger.addFilter(let_through)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(let_through)
