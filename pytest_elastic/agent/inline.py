"""An agent in a thread of the pytest process (``agent="inline"``), for tests that patch torch's agent."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.elastic.agent.server import api as agent_api

from pytest_elastic import forking
from pytest_elastic.agent import etcd_lease
from pytest_elastic.agent.launch import launch
from pytest_elastic.channel import Outbox
from pytest_elastic.forking import ServerAddress
from pytest_elastic.messages import AgentOrder
from pytest_elastic.worker.names import stop_reverse_lookups

_NOISY = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")


def run(order: AgentOrder, server: ServerAddress, store_fd: int | None) -> None:
    """Run the agent and tell the controller, which listens in another thread of this process."""
    outbox = Outbox(order.channel, order.key)
    forking.install(server)
    try:
        stop_reverse_lookups()
        with etcd_lease.quiet(), _no_error_records(), _plain_hostname(), _temporary_files_in(order.scratch):
            finished = launch(order, outbox.send, store_fd)
        outbox.send(finished)
    finally:
        outbox.close()
        forking.uninstall()


@contextmanager
def _plain_hostname() -> Iterator[None]:
    """Keep torch from asking DNS for the host's full name, which it does for each event."""
    before = agent_api._get_fq_hostname
    agent_api._get_fq_hostname = socket.gethostname
    try:
        yield
    finally:
        agent_api._get_fq_hostname = before


@contextmanager
def _temporary_files_in(directory: str) -> Iterator[None]:
    """Have the files that torch leaves for each failed worker go with the launch."""
    before = tempfile.tempdir
    tempfile.tempdir = directory
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _no_error_records() -> Iterator[None]:
    """Keep back what torch logs of failed workers: the launch tells it, and formatting it imports torch._dynamo."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
