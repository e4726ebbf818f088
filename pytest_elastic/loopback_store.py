"""Stores of torch that nobody outside of this machine can reach.

A ``TCPStore`` that torch opens listens on every address. But stores of one process and port share a server if they say
so (``multi_tenant``), as torch's own do: what it opens finds the server of a store that is there already, on a socket
of ours.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch.distributed import TCPStore

LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 4096
_TIMEOUT: Final = timedelta(minutes=5)


def host_on_loopback(port: int, timeout: timedelta = _TIMEOUT) -> TCPStore | None:
    """Host a store on a port of the loopback address, for those that this process opens later.

    Args:
        port: The port; 0 for any.
        timeout: How long its operations wait.

    Returns:
        The store, which is there until it is dropped; ``None`` if the port is taken.
    """
    from torch._C._distributed_c10d import TCPStore  # torch.distributed may still be in the middle of its import

    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError):
        listener.close()
        return None
    bound = int(listener.getsockname()[1])
    # It takes the descriptor that it is given, but not if it fails before.
    return TCPStore(
        LOOPBACK,
        bound,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )
