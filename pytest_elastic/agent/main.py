"""An agent process: forked from the preloaded server, one a node."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import threading
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server import api as agent_api

from pytest_elastic import clock, forking, kernel
from pytest_elastic.agent import etcd_lease
from pytest_elastic.agent.launch import launch
from pytest_elastic.channel import Outbox
from pytest_elastic.messages import AgentHello, AgentOrder
from pytest_elastic.worker import server_state


def main(order_file: str) -> None:
    """Run the agent that the order describes; the exit code is torchrun's, 0 or 1."""
    order: AgentOrder = pickle.loads(Path(order_file).read_bytes())
    clock.shift_by(order.clock_shift_ns)
    outbox = _report(order)
    _settle(order)
    store_fd = None if order.store_fd is None else forkserver.get_inherited_fds()[order.store_fd]  # type: ignore[index]
    with etcd_lease.quiet():
        finished = launch(order, outbox.send, store_fd)
    outbox.send(finished)
    sys.exit(0 if finished.state == "SUCCEEDED" else 1)


def vouch(order_file: str) -> None:
    """Say only what every agent says first: whether the server is fit. The agent itself runs inside pytest."""
    _report(pickle.loads(Path(order_file).read_bytes()))


def _report(order: AgentOrder) -> Outbox:
    """Tell the controller of the server, and wait for its leave to start."""
    outbox = Outbox(order.channel, order.key)
    state = server_state.state
    assert state is not None, "agents are forked from the preloaded server"
    outbox.send(AgentHello(node=order.node, pid=kernel.own_pid(), broken=state.broken, unsafe=state.unsafe))
    try:
        outbox.receive()
    except EOFError:
        os._exit(1)
    return outbox


def _settle(order: AgentOrder) -> None:
    """Make this process's surroundings those of the launch."""
    log = os.open(Path(order.directory) / f"agent-{order.node}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(order.environ)
    if "signals_to_handle" in order.config:  # of a LaunchConfig; torch's agent reads it here
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = order.config["signals_to_handle"]
    server_state.own_tracker()
    # torch leaves a file for each failed worker in the temporary directory; the launch's is removed with it.
    tempfile.tempdir = order.scratch
    # Semaphores of a killed agent are found by this name.
    multiprocessing.current_process()._config["semprefix"] = f"/{order.launch}"  # type: ignore[attr-defined]
    own: Any = forkserver._forkserver  # what the server put there for its children
    forking.install(forking.ServerAddress(own._forkserver_address, own._forkserver_alive_fd))
    # torch's formatter imports torch._dynamo for its first record of an error, which takes a second.
    plain = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    for name in ("torch", "torch.distributed"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(plain)
    # Asked for each event; torch's own goes to DNS for it, twice a rank.
    agent_api._get_fq_hostname = socket.gethostname
    threading.current_thread().name = f"agent-{order.node}"
