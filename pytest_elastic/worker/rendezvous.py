"""Make ``env://`` and ``tcp://`` initialisation dependable where rank 0 hosts the store, as it does here.

A rank that is early waits for rank 0 to open MASTER_PORT instead of being refused: torch tries again after about half
a second (torch/csrc/distributed/c10d/TCPStore.cpp, an exponential back-off), which one launch in a few would lose.

A second ``init_process_group`` would connect some ranks to the store of the first, which rank 0 is just closing. So
rank 0 keeps its store until it ends, and each further group of a process finds its keys under a prefix of its own:
every rank makes the same groups in the same order.

And rank 0 opens MASTER_PORT on MASTER_ADDR only, which torch's own store would not: on the loopback address, or on
several machines on the one by which others know its own.
"""

from __future__ import annotations

import importlib
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qs, urlparse

from pytest_elastic import clock
from pytest_elastic.loopback_store import LOOPBACK, host_store

_INTERVAL: Final = 0.001
_REMOTE_INTERVAL: Final = 0.01
_LOOPBACK: Final = (LOOPBACK, "localhost")


_stores: Final[list[dict[str, Any]]] = []
"""What rank 0 keeps, of each scheme by port."""


def forget_stores() -> None:
    """Let go of the stores that rank 0 has kept, for a process whose MASTER_PORT is another from now on.

    A group that still uses one of them keeps it.
    """
    for kept in _stores:
        kept.clear()


def prepare_rendezvous() -> None:
    """Have ``env://`` and ``tcp://`` initialisation of this process wait for its port, and keep its store."""
    # Not "from torch.distributed import": that name is a function there.
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    master = os.environ.get("MASTER_ADDR", LOOPBACK)
    for scheme in ("env", "tcp"):
        handlers = rendezvous._rendezvous_handlers
        handlers[scheme] = _dependable(handlers[scheme], master)


def _dependable(handler: Callable[..., Iterator[Any]], master: str) -> Callable[..., Iterator[Any]]:
    groups: Counter[str] = Counter()
    kept: dict[str, Any] = {}
    _stores.append(kept)

    def rendezvous(url: str, timeout: timedelta = timedelta(minutes=30), **kwargs: Any) -> Iterator[Any]:
        from torch.distributed import PrefixStore

        address = urlparse(url)
        query = parse_qs(address.query)
        rank = query.get("rank", [os.environ.get("RANK", "")])[0]
        host = address.hostname or os.environ.get("MASTER_ADDR", "")
        port = str(address.port or os.environ.get("MASTER_PORT", ""))
        ours = host in (*_LOOPBACK, master) and port.isdigit()
        if not ours or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
            yield from handler(url, timeout=timeout, **kwargs)
            return
        if rank != "0":
            wait_for_port(int(port), timeout.total_seconds(), host)
        elif port not in kept and _may_host(host, master, query):
            # torch's store, which it opens on every address, finds this one and shares its server.
            hosted = host_store(int(port), timeout, host=host)
            if hosted is not None:
                kept[port] = hosted
        for store, number, size in handler(url, timeout=timeout, **kwargs):
            if rank == "0":
                kept.setdefault(port, store)
            group = groups[port]
            groups[port] += 1
            yield (PrefixStore(f"group-{group}", store) if group else store), number, size

    return rendezvous


def _may_host(host: str, master: str, query: dict[str, list[str]]) -> bool:
    """Tell whether rank 0's store may be opened here, on 127.0.0.1 or MASTER_ADDR.

    Not for other names of this machine: some ranks might look for it at another address of the same name. And not where
    torch is told which kind of server to open.
    """
    return host in (LOOPBACK, master) and "use_libuv" not in query and os.environ.get("USE_LIBUV", "1") == "1"


def wait_for_port(port: int, timeout: float, host: str = LOOPBACK) -> bool:
    """Wait until a process listens on a TCP port; return whether one does.

    Args:
        port: The port.
        timeout: Seconds to wait at most.
        host: The machine: this one, or an address of another.
    """
    deadline = clock.monotonic() + timeout
    here = host in _LOOPBACK
    while not (is_listening(port) if here else _answers(host, port, deadline - clock.monotonic())):
        if clock.monotonic() >= deadline:
            return False
        select.select([], [], [], _INTERVAL if here else _REMOTE_INTERVAL)
    return True


def _answers(host: str, port: int, timeout: float) -> bool:
    """Tell whether somebody takes connections at an address."""
    try:
        socket.create_connection((host, port), timeout=max(timeout, _REMOTE_INTERVAL)).close()
    except OSError:
        return False
    return True


def is_listening(port: int) -> bool:
    """Tell whether a process of this machine listens on a TCP port; true where that cannot be told.

    A socket that allows its address to be used again can be bound beside others of the kind, which torch's stores are,
    until one of them listens. The system's tables of connections tell the same, after a thousand times as long.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK[0], port))
        except OSError:
            return True
    return False
