"""The environment of agents and ranks, made from that of the launching test."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping

from pytest_elastic.controller.server import RUN_MARK
from pytest_elastic.loopback_store import LOOPBACK

LAUNCH_MARK = "PYTEST_ELASTIC_LAUNCH"
"""Environment variable that every process of a launch carries; its value is the launch's name."""

_ONLY_AT_START = ("PYTHONHASHSEED", "TORCH_LOGS", "LD_", "KMP_", "MALLOC_")


def rank_environment(
    extra: Mapping[str, str], *, run: str, launch: str, nproc: int, command: bool, address: str = LOOPBACK
) -> dict[str, str]:
    """Return the environment of ranks, as it is now.

    torchrun's own variables of an outer launch (``PET_*``) are dropped. As torchrun does, several ranks on a node get
    one OpenMP thread each unless the user says otherwise. gloo is told to use the loopback interface, or on several
    machines the one by which they reach each other: it would look up the name of this host otherwise, which takes 10 s
    where DNS does not answer, and may be known to this host only. No rank leaves the making of a group
    before all are connected.
    """
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PET_")}
    environ.update(extra)
    interface = loopback_interface() if address == LOOPBACK else interface_of(address)
    if interface is not None:
        environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    # torch's own variable for a barrier over the store at the end of init_process_group: without it a rank that is done
    # at once destroys its group, and so closes its connections, while another is still making its own.
    environ.setdefault("TORCH_DIST_INIT_BARRIER", "1")
    if nproc > 1:
        environ.setdefault("OMP_NUM_THREADS", "1")
    if command:
        # A program that is not ours to prepare: where DNS does not answer it loses a second on a look-up, not five.
        environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
    environ[RUN_MARK] = run
    environ[LAUNCH_MARK] = launch
    return environ


def needs_fresh_interpreter(environ: Mapping[str, str], at_start: Mapping[str, str]) -> str | None:
    """Return the first variable that only a fresh process reads and that differs from when the server started."""
    for key in sorted({*environ, *at_start}):
        if key.startswith(_ONLY_AT_START) and environ.get(key) != at_start.get(key):
            return key
    return None


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has an address, or ``None`` if none has."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    return None


def loopback_interface() -> str | None:
    """Return the name of the loopback interface, or ``None`` if there is none."""
    names = {name for _, name in socket.if_nameindex()} if sys.platform != "win32" else set()
    return next((name for name in ("lo", "lo0") if name in names), None)
