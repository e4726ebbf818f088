"""Slurm's short notation of many nodes and of many numbers."""

from __future__ import annotations

import re
from typing import Final

# A first node needs only the first entry; the whole is read all the same, so that what is no list is refused.
_RANGES: Final = r"\[[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*\]"
_ENTRY: Final = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9_.-]|{_RANGES})*")
_COUNT: Final = re.compile(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?")
_LONGEST: Final = 1_000_000


def first_node(text: str) -> str | None:
    """Return the first node of a list such as ``node[01-03,7],gpu1``, or ``None`` if it is none."""
    position = 0
    first = None
    while True:
        entry = _ENTRY.match(text, position)
        if entry is None:
            return None
        if first is None:
            first = re.sub(r"\[([0-9]+)[^]]*\]", r"\1", entry[0])
        position = entry.end()
        if position == len(text):
            return first
        if text[position] != ",":
            return None
        position += 1


def tasks_per_node(text: str) -> list[int] | None:
    """Return the different numbers of ``2(x3),1``, in order, or ``None`` if it is something else."""
    counts = [_COUNT.fullmatch(part) for part in text.split(",")]
    if not all(counts):
        return None
    return [int(count[1]) for count in counts if count is not None]
