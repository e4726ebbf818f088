"""What became of a rank that left no word of a failure: it was ended, or died."""

from __future__ import annotations

from pytest_elastic.report.culprit import ended_by_us
from pytest_elastic.report.describe import what_happened
from pytest_elastic.report.records import RankRecord
from pytest_elastic.report.stacks import read_stacks, shown, where


def ending(rank: RankRecord) -> tuple[str, str]:
    """Say what became of a rank, and where it was.

    Returns:
        A few words, ``"blocked in all_reduce at test_x.py:17, killed"``, and its stacks.
    """
    stack = read_stacks(rank.directory)
    if not ended_by_us(rank) and not rank.killed:
        return what_happened(rank, work="test"), shown(stack)
    place = where(stack)
    return (f"blocked in {place}, killed" if place else "killed"), shown(stack)
