"""What became of each rank in a word, and of all of them in one line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from pytest_elastic.report.culprit import Blame
from pytest_elastic.report.judgement import find_failures, skip_of
from pytest_elastic.report.records import RankRecord

if TYPE_CHECKING:
    from pytest_elastic.report.timeline import State

RANK_MAP: Final = "elastic_rank_map"
"""Attribute of a report of a failure: what became of each rank, in one line."""
_WORDS: Final[dict[State, str]] = {
    "passed": "ok",
    "skipped": "skipped",
    "xfailed": "xfailed",
    "failed": "FAILED",
    "collateral": "lost-peer",
    "killed": "killed",
}
_EACH: Final = 8
"""Most ranks that are named one by one."""


def state_of(rank: RankRecord, culprit: int | None, *, silent_success: bool = False) -> State:
    """Tell what became of a rank.

    Args:
        rank: The rank.
        culprit: The rank that failed first: it has failed, whatever by.
        silent_success: It ran a command, which tells nothing: exit code 0 is its outcome.
    """
    if rank.id.rank == culprit:
        return "failed"
    if silent_success and rank.exited is not None and rank.exited.exitcode == 0:
        return "passed"
    failures = find_failures([rank])
    if failures:
        blame = failures[0].blame
        return "killed" if blame is Blame.ENDED else "collateral" if blame is Blame.LOST_PEER else "failed"
    skip = skip_of(rank)
    if skip is None:
        return "passed"
    return "skipped" if skip.expected is None else "xfailed"


def rank_map(states: Sequence[State]) -> str:
    """Return what became of ranks: ``0 ok 1 ok 2 FAILED 3 killed``; of many, neighbours that fared alike together.

    Args:
        states: What became of each, in order of rank.
    """
    if len(states) <= _EACH:
        return " ".join(f"{rank} {_WORDS[state]}" for rank, state in enumerate(states))
    parts, rank = [], 0
    for state, group in groupby(states):
        count = len(list(group))
        numbers = str(rank) if count == 1 else f"{rank}-{rank + count - 1}"
        parts.append(f"{numbers} {_WORDS[state]}")
        rank += count
    return " ".join(parts)
