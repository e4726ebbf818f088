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

_HELPERS = ("multiprocessing.resource_tracker import main", "multiprocessing.forkserver import main; main(")
"""Processes that multiprocessing starts beside a pool; they leave by themselves when their parent has ended."""
RANK_COMMAND = "['pytest_elastic.worker.preload']"
_SPAWNED = "multiprocessing.spawn import spawn_main"
_WRAPPED = "pytest_elastic/worker/"
"""What the command line of a script or command has until it has started."""
_REAPING = 1.0
_ROUNDS = 10
"""Ending a process may orphan others; nothing sane goes deeper than this."""


def sweep(server: PreloadedServer, own: Mapping[int, RankState | AgentState | None]) -> list[str]:
    """End the stray processes of a launch whose ranks and agents are gone.

    Args:
        server: The server that forked them.
        own: Ranks and agents of the launch by process id; ``None`` for those of which only that is known.

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
                left += _end(pid, own.get(session_of(pid)), server)
        wait_until_reaped(server, strays)
    wait_until_reaped(server, own.keys())
    return left


def wait_until_reaped(server: PreloadedServer, pids: Collection[int]) -> None:
    """Wait until the server, their parent, has taken note of the end of processes that have ended; a second at most."""
    deadline = clock.monotonic() + _REAPING
    while server.alive() and kernel.children(server.pid) & set(pids) and clock.monotonic() < deadline:
        kernel.pause(0.001)


def _is_ours(pid: int, server: PreloadedServer, own: Mapping[int, RankState | AgentState | None]) -> bool:
    # Ranks and agents lead sessions of their own. A process that left its rank's is ours if no other launch could
    # have started it.
    return session_of(pid) in own or server.serves_one


def _end(pid: int, owner: RankState | AgentState | None, server: PreloadedServer) -> list[str]:
    handle = kernel.ProcessHandle(pid)
    try:
        if not handle.alive():
            return []
        line = kernel.command_line(pid)
        not_started = owner is None and _has_not_started(pid, line, server)
        who = f"rank {owner.id.rank}" if isinstance(owner, RankState) else "a rank"
        handle.send(signal.SIGKILL)
        handle.wait(1.0)
        if not line:
            return []  # it was ending by itself
        if not_started:
            return []
        if RANK_COMMAND in line:
            line = "forked by the rank"
        elif any(helper in line for helper in _HELPERS):
            return []
        return [f"{who} left process {pid} ({_shown(line)}) behind"]
    finally:
        handle.close()


def _shown(line: str) -> str:
    # Where its program lies may be longer than all that tells what it does.
    program, space, arguments = line.partition(" ")
    return f"{program.rpartition('/')[2]}{space}{arguments}"[:80]


def _has_not_started(pid: int, line: str, server: PreloadedServer) -> bool:
    """Tell whether this is a rank, of this launch or the last one, whose launch ended before it could start.

    Nobody has heard of it, and it has left nothing behind. Such a process still has the name that Python gave it: one
    that was given leave to start has another one, and so have its forks. What a rank spawns has its variables.
    """
    name = kernel.name_of(pid)
    if not name or name != kernel.name_of(server.pid):
        return False
    return RANK_COMMAND in line or _WRAPPED in line or (_SPAWNED in line and not kernel.had_variable(pid, "RANK"))


def session_of(pid: int) -> int:
    """Return the session of a process; -1 if it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1
