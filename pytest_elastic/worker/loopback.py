"""Whether this machine has the one network that ranks need."""

from __future__ import annotations

import socket

from pytest_elastic.errors import ElasticError

_LOOPBACK = "127.0.0.1"
_PATIENCE = 5.0


def check_loopback() -> None:
    """Make a connection to this machine: where that is not possible, torch's store tries for five minutes.

    Raises:
        ElasticError: There is no loopback interface, or it is down.
    """
    try:
        with socket.create_server((_LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_PATIENCE).close()
    except OSError as error:
        raise ElasticError(
            f"ranks meet on {_LOOPBACK}, which cannot be reached: {error.strerror or error}; bring the loopback "
            "interface up, by `ip link set lo up`"
        ) from None
