"""Which process all members of a run on this machine come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class _Process(NamedTuple):
    name: str
    parent: int
    started: str


def launcher_process(name: str) -> str:
    """Return what names the closest ancestor of this process that runs a program.

    It is the same for all that come from that process, and no other process ever has the same.

    Args:
        name: The program. If no ancestor runs it, or that cannot be found out, it is the parent.
    """
    pid = os.getppid()
    while pid > 1 and (process := _look(pid)) is not None:
        if process.name == name[:15]:  # as much as the kernel keeps
            return f"{pid}-{process.started}"
        pid = process.parent
    parent = _look(os.getppid())
    return f"{os.getppid()}-{parent.started if parent is not None else '0'}"


def launched_process(programs: tuple[str, ...]) -> str:
    """Return what names the process that a launcher has started, of which this one is or descends.

    Args:
        programs: Words of which one is in the command line of the launcher. If no ancestor has one, it is this process.
    """
    pid = os.getpid()
    below = pid
    while pid > 1 and (process := _look(pid)) is not None:
        if pid != below and any(program in _command_line(pid) for program in programs):
            break
        below, pid = pid, process.parent
    else:
        below = os.getpid()
    found = _look(below)
    return f"{below}-{found.started if found is not None else '0'}"


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _look(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")  # the name of a program may hold anything
    fields = after.split()
    return _Process(name=before.partition("(")[2], parent=int(fields[1]), started=fields[19])
