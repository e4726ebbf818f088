"""Whether the server of a rendezvous is still there, for a launch that waited for it in vain."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, Final

_PATIENCE: Final = 1.0


def unreachable_endpoint(config: Mapping[str, Any]) -> str:
    """Return the endpoint of an etcd that takes no connections; an empty text if it does, or there is none.

    Nothing is said of a host that is named, but for localhost.

    torch's agents ask an etcd that has died again and again: it is not they who tell.

    Args:
        config: Fields of torch's ``LaunchConfig``.
    """
    endpoint = str(config["rdzv_endpoint"])
    host, _, port = endpoint.rpartition(":")
    if not str(config["rdzv_backend"]).startswith("etcd") or not host or not port.isdecimal():
        return ""
    hosts = ("127.0.0.1", "::1") if host == "localhost" else (host.strip("[]"),)
    try:
        # Names are not looked up: that has no deadline, and the launch has to end.
        addresses = [
            socket.getaddrinfo(each, int(port), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
            for each in hosts
        ]
    except (OSError, UnicodeError, OverflowError):
        return ""
    return endpoint if not any(_answers(*address) for address in addresses) else ""


def _answers(family: int, kind: int, proto: int, _: str, address: Any) -> bool:
    try:
        with socket.socket(family, kind, proto) as probe:
            probe.settimeout(_PATIENCE)
            probe.connect(address)
    except OSError:
        return False
    return True
