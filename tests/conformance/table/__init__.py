"""Every row: what goes wrong, and what comes of it."""

from __future__ import annotations

from .dying import DYING
from .failing import FAILING
from .hanging import HANGING
from .launching import LAUNCHING
from .leaving import LEAVING
from .row import START_METHODS, Row, StartMethod, deadline_for
from .unequal import UNEQUAL
from .whole import WHOLE

GROUPS = {
    "Ranks that raise": FAILING,
    "Ranks that die": DYING,
    "Ranks that skip, return early or are expected to fail": UNEQUAL,
    "Ranks that hang": HANGING,
    "Ranks that leave something behind, print, warn, record, restart": LEAVING,
    "Launches by `elastic_launch`": LAUNCHING,
    "The whole session": WHOLE,
}
ROWS: tuple[Row, ...] = tuple(row for rows in GROUPS.values() for row in rows)
SPAWNED: frozenset[str] = frozenset(
    {
        "fails_an_assert",
        "hangs_in_a_collective",
        "launch_fails",
        "passes",
    }
)
"""A few of them: with spawned ranks, which import torch each, all of them take too long for every day."""

__all__ = ["GROUPS", "ROWS", "SPAWNED", "START_METHODS", "Row", "StartMethod", "deadline_for"]
