"""A few cells of the grid, chosen so that every two dimensions meet in every way that they can."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import fields

from .cells import Cell

Pair = tuple[tuple[str, object], tuple[str, object]]


def pairs_of(cell: Cell, of: Iterable[str] | None = None) -> set[Pair]:
    """Return the pairs of values that meet in a cell."""
    names = [field.name for field in fields(Cell)] if of is None else list(of)
    return set(itertools.combinations([(name, getattr(cell, name)) for name in names], 2))


def a_few(cells: Iterable[Cell], *, most: int, seed: int = 0) -> tuple[Cell, ...]:
    """Return few cells in which as many pairs of values as possible meet.

    Args:
        cells: What to choose from.
        most: How many are chosen at most.
        seed: Decides between cells that are as good.
    """
    left = list(cells)
    random.Random(seed).shuffle(left)
    wanted = set().union(*(pairs_of(cell) for cell in left))
    chosen: list[Cell] = []
    while wanted and len(chosen) < most:
        best = max(left, key=lambda cell: len(pairs_of(cell) & wanted))
        wanted -= pairs_of(best)
        left.remove(best)
        chosen.append(best)
    return tuple(chosen)
