"""A process that hosts the store of a c10d rendezvous, so that any agent may be lost, the first too."""

from __future__ import annotations

import signal
import socket
from multiprocessing import forkserver

from torch.distributed import TCPStore

from pytest_elastic.loopback_store import LOOPBACK


def host() -> None:
    """Host the store on the inherited listening socket until this process is killed."""
    fd = forkserver.get_inherited_fds()[0]  # type: ignore[index]
    with socket.socket(fileno=socket.dup(fd)) as listener:
        port = listener.getsockname()[1]
    store = TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=fd)
    while store:
        signal.pause()
