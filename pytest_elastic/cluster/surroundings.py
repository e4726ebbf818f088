"""What a controller says of itself and its machine."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of what must be equal in all controllers of a run: objects of theirs are sent."""
    found = {"Python": ".".join(map(str, sys.version_info[:2]))}
    for package in ("torch", "pytest", "pytest-elastic"):
        try:
            found[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            found[package] = "none"
    return found


@lru_cache(maxsize=1)
def clock_of_this_machine() -> str:
    """Return what tells the clock of this machine, since its start, from that of others; an empty text if nothing does.

    Processes of one machine read the same clock, unless they are in time namespaces of their own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        offsets = Path("/proc/self/timens_offsets").read_text() if Path("/proc/self/timens_offsets").exists() else ""
    except OSError:
        return ""
    return f"{boot} {' '.join(offsets.split())}"
