"""The clock of every wait in this package, out of reach of tests that patch ``time``.

A test may freeze ``time.monotonic`` (monkeypatch, freezegun) while its launch runs. The functions are therefore looked
up once, and held in a way that a tool does not find that replaces ``time.monotonic`` wherever a module has it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

# On Linux this is what time.monotonic() reads; elsewhere processes must read the same clock to compare times.
_LINUX: Final = sys.platform == "linux"

monotonic: Final[Callable[[], float]] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC) if _LINUX else partial(time.monotonic)
)
"""Seconds, as ``time.monotonic()``."""

monotonic_ns: Callable[[], int] = (
    partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC) if _LINUX else partial(time.monotonic_ns)
)
"""Nanoseconds, as ``time.monotonic_ns()``; the same in every process of this machine, and of a launch on several."""


wall: Final[Callable[[], float]] = partial(time.clock_gettime, time.CLOCK_REALTIME) if _LINUX else partial(time.time)
"""Seconds since the epoch, as ``time.time()``."""

wall_ns: Final[Callable[[], int]] = (
    partial(time.clock_gettime_ns, time.CLOCK_REALTIME) if _LINUX else partial(time.time_ns)
)
"""Nanoseconds since the epoch, as ``time.time_ns()``."""


def shift_by(nanoseconds: int) -> None:
    """Have :data:`monotonic_ns` of this process tell the time of another machine.

    Args:
        nanoseconds: What is added to this machine's.
    """
    global monotonic_ns
    if nanoseconds:
        own = monotonic_ns
        monotonic_ns = partial(_shifted, own, nanoseconds)


def _shifted(own: Callable[[], int], nanoseconds: int) -> int:
    return own() + nanoseconds


LONG: Final = 86_400.0
"""A day: the longest that a single wait may be. Longer ones overflow what the kernel or torch counts in."""
