"""The grid: every way to fail at every moment, on each rank, in worlds of each kind; made by a rule, not by hand."""

from __future__ import annotations

from .cells import LEFT_OUT, MODES, PHASES, SERVER_PHASES, Cell, all_cells, left_out_by
from .choosing import a_few
from .verdicts import Verdict, expected

__all__ = [
    "LEFT_OUT",
    "MODES",
    "PHASES",
    "SERVER_PHASES",
    "Cell",
    "Verdict",
    "a_few",
    "all_cells",
    "expected",
    "left_out_by",
]
