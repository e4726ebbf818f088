"""End what the ranks of a launch left behind.

The server adopts every descendant that loses its own parent, so one look at its children finds them all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Mapping

from pytest_elastic import clock, kernel
from pytest_elastic.controller.peers import AgentState, RankState
from pytest_elastic.controller.server import PreloadedServer
from pytest_elastic.worker.joining import NAME

_HELPERS = ("multiprocessing.resource_tracker import main", "multiprocessing.forkserver import main; main(")
"""Processes that multiprocessing starts beside a pool; they leave by themselves when their parent has ended."""
RANK_COMMAND = "['pytest_elastic.worker.preload']"
_RANK_COMMANDS = (RANK_COMMAND, "multiprocessing.spawn import spawn_main", "pytest_elastic/worker/")
"""What the command line of a process has that was started to be a rank: forked, spawned, or for a script or command."""
_REAPING = 1.0
_ROUNDS = 10
"""Ending a process may orphan others; nothing sane goes deeper than this."""


def sweep(server: PreloadedServer, own: Mapping[int, RankState | AgentState]) -> list[str]:
    """End the stray processes of a launch whose ranks and agents are gone.

    Args:
        server: The server that forked them.
        own: Ranks and agents of the launch by process id.

    Returns:
        A line for each process that was ended: who left which behind.
    """
    left: list[str] = []
    for _ in range(_ROUNDS):
        strays = {pid for pid in server.strays() if _is_ours(pid, server, own)}
        if not strays:
            break
        for stray in strays:
            for pid in (stray, *kernel.descendants(stray)):
                left += _end(pid, own.get(session_of(pid)))
        wait_until_reaped(server, strays)
    wait_until_reaped(server, own.keys())
    return left


def wait_until_reaped(server: PreloadedServer, pids: Collection[int]) -> None:
    """Wait until the server, their parent, has taken note of the end of processes that have ended; a second at most."""
    deadline = clock.monotonic() + _REAPING
    while server.alive() and kernel.children(server.pid) & set(pids) and clock.monotonic() < deadline:
        kernel.pause(0.001)


def _is_ours(pid: int, server: PreloadedServer, own: Mapping[int, RankState | AgentState]) -> bool:
    # Ranks and agents lead sessions of their own. A process that left its rank's is ours if no other launch could
    # have started it.
    return session_of(pid) in own or server.serves_one


def _end(pid: int, owner: RankState | AgentState | None) -> list[str]:
    handle = kernel.ProcessHandle(pid)
    try:
        if not handle.alive():
            return []
        line, name = kernel.command_line(pid), kernel.name_of(pid)
        who = f"rank {owner.id.rank}" if isinstance(owner, RankState) else "a rank"
        handle.send(signal.SIGKILL)
        handle.wait(1.0)
        if not line:
            return []  # it was ending by itself
        if owner is None and any(each in line for each in _RANK_COMMANDS) and not name.startswith(NAME):
            return []  # a rank, of this launch or the last one, that has not started: the end came before it
        if RANK_COMMAND in line:
            line = "forked by the rank"
        elif any(helper in line for helper in _HELPERS):
            return []
        return [f"{who} left process {pid} ({line[:80]}) behind"]
    finally:
        handle.close()


def session_of(pid: int) -> int:
    """Return the session of a process; -1 if it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1
