"""Stores of torch that nobody can reach who need not: outside of this machine, or of the network of a launch.

A ``TCPStore`` that torch opens listens on every address. But stores of one process and port share a server if they say
so (``multi_tenant``), as torch's own do: what it opens finds the server of a store that is there already, on a socket
of ours.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pytest_elastic.channel import listen_on

if TYPE_CHECKING:
    from torch.distributed import TCPStore

LOOPBACK: Final = "127.0.0.1"
_TIMEOUT: Final = timedelta(minutes=5)


def host_store(port: int, timeout: timedelta = _TIMEOUT, *, host: str = LOOPBACK) -> TCPStore | None:
    """Host a store on a port of one address of this machine, for those that this process opens later.

    Args:
        port: The port; 0 for any.
        timeout: How long its operations wait.
        host: The address.

    Returns:
        The store, which is there until it is dropped; ``None`` if the port is taken, or the address none of ours.
    """
    from torch._C._distributed_c10d import TCPStore  # torch.distributed may still be in the middle of its import

    try:
        listener = listen_on(host, port)
    except (OSError, OverflowError):
        return None
    bound = int(listener.getsockname()[1])
    # It takes the descriptor that it is given, but not if it fails before.
    return TCPStore(
        host,
        bound,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )
