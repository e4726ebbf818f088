"""Rendezvous: the built-in ``local`` one, and a wrapper that gives each round of any of them a fresh MASTER_PORT.

Ranks must not live on the agents' store: torch keeps it for all rounds without a prefix, so that a restarted group, a
second ``init_process_group`` or a ``tcp://`` one reads what the last left. Here rank 0 hosts MASTER_PORT itself. The
agent of node 0 holds that port meanwhile by a socket that is bound but does not listen: nobody else is ever given the
port, while rank 0, with SO_REUSEADDR as every torch store, may listen on it.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from torch.distributed import PrefixStore, Store, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from pytest_elastic import clock
from pytest_elastic.agent.master import Master, decode_master
from pytest_elastic.agent.signed_state import BACKENDS, make_signed_handler
from pytest_elastic.loopback_store import LOOPBACK, host_store

_DISABLE_SHARING: Final = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


class LocalRendezvous(RendezvousHandler):
    """A fixed number of nodes that know each other from the start: nothing is polled.

    Reads from the parameters ``rank`` (of the node), ``store_host``, ``store_port``, and on the node that hosts the
    store ``store_fd``, a listening socket.
    """

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id
        self._nodes = parameters.max_nodes
        self._rank = int(parameters.config["rank"])
        timeout = timedelta(seconds=float(parameters.config["timeout"]))
        store_fd = parameters.config.get("store_fd")
        host = str(parameters.config["store_host"])
        if store_fd is None:
            self._store = TCPStore(host, int(parameters.config["store_port"]), timeout=timeout)
        else:
            self._store = TCPStore(
                host,
                int(parameters.config["store_port"]),
                is_master=True,
                wait_for_workers=False,
                timeout=timeout,
                # It takes what it is given, but not if it fails before.
                master_listen_fd=os.dup(store_fd),
            )
        self._round = 0
        self._closed = False

    def get_backend(self) -> str:
        """Return ``"local"``."""
        return "local"

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until every node is here. The master's address is filled in by :class:`FreshPort`."""
        self._round += 1
        if self._store.add(f"arrived/{self._round}", 1) == self._nodes:
            self._store.set(f"complete/{self._round}", "")
        elif self._nodes > 1:
            self._store.wait([f"complete/{self._round}"])
        store = PrefixStore(f"round/{self._round}", self._store)
        return RendezvousInfo(store, self._rank, self._nodes, RendezvousStoreInfo("", 0))

    def is_closed(self) -> bool:
        """Tell whether this node has closed the rendezvous."""
        return self._closed

    def set_closed(self) -> None:
        """Close the rendezvous for this node."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """Return how many nodes wait for the next round, because their workers failed."""
        return 0 if self._nodes == 1 else int(self._store.add(f"arrived/{self._round + 1}", 0))

    def get_run_id(self) -> str:
        """Return the name of the launch."""
        return self._run_id

    def shutdown(self) -> bool:
        """Close the rendezvous, and let go of the store."""
        self._closed = True
        del self._store
        return True


class FreshPort(RendezvousHandler):
    """Any rendezvous, with a new MASTER_PORT and a name for the world in each round.

    Attributes:
        world: Name of the world of the last round, equal on all nodes.
        port: MASTER_PORT of the last round.
        group_rank: Rank of this node in the last round, or ``None``.
        rounds: How many rounds were completed.
        shutdowns: How often the handler was shut down.
        store: Store of the agents in the last round, or ``None``.
        times_ns: ``time.monotonic_ns()`` at the beginning and at the end of the last round of the rendezvous.

    Args:
        inner: The rendezvous.
        address: Address of this node for the others.
        key: Key by which node 0 signs what it tells the others; ``None`` where others may take part.
        host: The store that it uses, if it is hosted here.
    """

    def __init__(
        self, inner: RendezvousHandler, key: bytes | None, host: Store | None = None, *, address: str = LOOPBACK
    ) -> None:
        self._inner = inner
        self._address = address
        self._key = key
        self._host = host
        self._held: socket.socket | None = None
        self.world = ""
        self.port = 0
        self.group_rank: int | None = None
        self.rounds = 0
        self.shutdowns = 0
        self.store: Store | None = None
        self.times_ns = (0, 0)

    def get_backend(self) -> str:
        """Return the name of the wrapped backend."""
        return self._inner.get_backend()

    @property
    def use_agent_store(self) -> bool:
        """Ranks make their own store: always false."""
        return False

    def next_rendezvous(self) -> RendezvousInfo:
        """Complete a round of the wrapped rendezvous, then agree on a port that rank 0 is going to host."""
        began_ns = clock.monotonic_ns()
        with _unshared_store():
            info = self._inner.next_rendezvous()
        self.rounds += 1
        self.group_rank = info.rank
        self.store = info.store
        # static has one store for all rounds; the others have one a round, and nodes that joined late count less.
        key = f"master/{self.rounds}" if self.get_backend() == "static" else "master"
        store = PrefixStore("pytest_elastic", info.store)
        if info.rank == 0:
            self._release()
            self._held = socket.socket()
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.bind(("", 0))
            # Its own word is not read back: others can write to the store too.
            port = int(self._held.getsockname()[1])
            master = Master(port=port, world=uuid.uuid4().hex[:12], address=self._address)
            store.set(key, master.encode(self._key, self.get_run_id()).decode())
        else:
            master = decode_master(store.get(key), self._key, self.get_run_id())
        self.port, self.world = master.port, master.world
        self.times_ns = (began_ns, clock.monotonic_ns())
        bootstrap = RendezvousStoreInfo(master.address, master.port)
        return RendezvousInfo(info.store, info.rank, info.world_size, bootstrap)

    def is_closed(self) -> bool:
        """Ask the wrapped handler."""
        return bool(self._inner.is_closed())

    def set_closed(self) -> None:
        """Tell the wrapped handler."""
        self._inner.set_closed()  # type: ignore[no-untyped-call]

    def num_nodes_waiting(self) -> int:
        """Ask the wrapped handler."""
        return int(self._inner.num_nodes_waiting())

    def get_run_id(self) -> str:
        """Ask the wrapped handler."""
        return str(self._inner.get_run_id())

    def shutdown(self) -> bool:
        """Shut the wrapped handler down, and count it."""
        self.shutdowns += 1
        self.store = None
        self._host = None
        self._release()
        return bool(self._inner.shutdown())

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def __getattr__(self, name: str) -> Any:
        # What one backend has beyond the interface (etcd's set_keep_alive, say) stays reachable.
        return getattr(self._inner, name)


@contextmanager
def _unshared_store() -> Iterator[None]:
    """Keep torch from handing its rendezvous store to the ranks; it reads this in each round."""
    before = os.environ.get(_DISABLE_SHARING)
    os.environ[_DISABLE_SHARING] = "1"
    try:
        yield
    finally:
        restore_variable(_DISABLE_SHARING, before)


@contextmanager
def shared_store_restored() -> Iterator[None]:
    """Put that variable back at the end, for an agent that never comes out of its rendezvous."""
    before = os.environ.get(_DISABLE_SHARING)
    try:
        yield
    finally:
        restore_variable(_DISABLE_SHARING, before)


def restore_variable(name: str, before: str | None) -> None:
    """Give an environment variable the value that it had, or none."""
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before


def make_handler(parameters: RendezvousParameters, state_key: bytes | None, *, address: str = LOOPBACK) -> FreshPort:
    """Make the handler of a backend, through torch's registry if it can be had there, wrapped.

    Args:
        parameters: What it is to be.
        state_key: Key by which its state, and what node 0 says, is signed; ``None`` where others than the agents of
            this run may take part.
        address: Address of this node for the others.
    """
    if parameters.backend == "local":
        rendezvous_handler_registry.register("local", LocalRendezvous)
    if state_key is not None and parameters.backend in BACKENDS:
        return FreshPort(make_signed_handler(parameters, state_key), state_key, address=address)
    host, _, port = parameters.endpoint.rpartition(":")
    here = parameters.backend == "static" and parameters.config["rank"] == 0 and host == address
    store = host_store(int(port), host=host) if here else None
    return FreshPort(get_rendezvous_handler(parameters), state_key, store, address=address)
