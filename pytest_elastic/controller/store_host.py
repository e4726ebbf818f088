"""The store of the agents' rendezvous: its socket, and the process that hosts it outside of any agent."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from pytest_elastic import kernel, tasks
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.forking import read_status

_PATIENCE = 1.0
"""Seconds that the server gets to say what has become of the host; it needs a few milliseconds."""


class StoreHost:
    """Nothing is opened before :meth:`open`.

    Args:
        plan: The launch.

    Attributes:
        port: Port of the store; ``None`` if the launch needs none.
    """

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self._socket: socket.socket | None = None
        self._status: int | None = None
        self.port: int | None = None

    def open(self, fork: Callable[[str, Callable[..., None], tuple[Any, ...], list[int]], int]) -> None:
        """Open the socket, and start the process where one is needed.

        Args:
            fork: Has the server fork a process, and returns its status descriptor.
        """
        self._socket = self._plan.open_store_socket()
        if self._socket is None:
            return
        self.port = int(self._socket.getsockname()[1])
        if self._plan.hosts_store_outside:
            self._status = fork("store", tasks.host_store, (), [self._socket.fileno()])

    def fds_for(self, node: int) -> list[int]:
        """Return the descriptors that an agent inherits: the first one hosts the store of ``local``."""
        local = self._plan.config["rdzv_backend"] == "local" and not self._plan.hosts_store_outside
        hosts = self._socket is not None and node == 0 and local
        return [self._socket.fileno()] if hosts and self._socket is not None else []

    def handed_over(self) -> None:
        """Let go of the socket, which others have by now; that of ``static`` only holds the port."""
        if self._socket is not None and not self._plan.holds_port:
            self._socket.close()

    def close(self) -> None:
        """End the process, and give everything back."""
        if self._socket is not None:
            self._socket.close()
        status, self._status = self._status, None
        if status is None:
            return
        if kernel.readable(status, _PATIENCE) and len(data := os.read(status, 8)) == 8:
            handle = kernel.ProcessHandle(read_status(data))
            handle.send(signal.SIGKILL)
            handle.close()
            kernel.readable(status, _PATIENCE)  # until the server has reaped it
        os.close(status)
