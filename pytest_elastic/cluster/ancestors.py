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


def _look(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")  # the name of a program may hold anything
    fields = after.split()
    return _Process(name=before.partition("(")[2], parent=int(fields[1]), started=fields[19])
