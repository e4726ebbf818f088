"""Whether the server of a rendezvous is still there, for a launch that waited for it in vain."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, Final

_PATIENCE: Final = 1.0


def unreachable_endpoint(config: Mapping[str, Any]) -> str:
    """Return the endpoint of an etcd that takes no connections; an empty text if it does, or there is none.

    torch's agents ask an etcd that has died again and again: it is not they who tell.

    Args:
        config: Fields of torch's ``LaunchConfig``.
    """
    endpoint = str(config["rdzv_endpoint"])
    host, _, port = endpoint.rpartition(":")
    if not str(config["rdzv_backend"]).startswith("etcd") or not host or not port.isdecimal():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except OSError:
        return endpoint
    return ""
