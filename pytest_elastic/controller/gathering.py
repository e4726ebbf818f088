"""Calls that all ranks of a world make together: who has made one, who cannot any more, and what becomes of the rest.

Pure: no process, no connection. Calls are counted by each rank, in two periods of its test, so that what one rank
leaves out in the test does not shift what the ranks do in its teardown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pytest_elastic.messages import Meeting, Period
from pytest_elastic.report.stacks import fold

PERIODS: Final[tuple[Period, Period]] = ("test", "teardown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """What some ranks hear that have waited.

    Attributes:
        what: Rank to the name of the call that it made.
        ranks: Who hears it.
        values: What each rank of the world gave, in order of rank, or ``None``.
        doings: Rank to what it did, where there are no values.
    """

    what: dict[int, str]
    ranks: tuple[int, ...]
    values: tuple[bytes, ...] | None = None
    doings: dict[int, str] | None = None


class Gathering:
    """The calls of one world.

    Args:
        world_size: Number of ranks.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._rounds: dict[tuple[Period, int], dict[int, Meeting]] = {}
        self._answered: dict[tuple[Period, int], set[int]] = {}
        self._over: dict[Period, dict[int, str]] = {period: {} for period in PERIODS}

    def call(self, rank: int, meeting: Meeting) -> Settled | None:
        """Take a rank's call; return what is settled by it."""
        key = (meeting.period, meeting.round)
        self._rounds.setdefault(key, {})[rank] = meeting
        return self._settle(key)

    def over(self, rank: int, how: str, *, periods: tuple[Period, ...] = PERIODS) -> list[Settled]:
        """Take note that a rank makes no more calls; return what is settled by it. The first reason counts."""
        new = [period for period in periods if rank not in self._over[period]]
        for period in new:
            self._over[period][rank] = how
        settled = [self._settle(key) for key in list(self._rounds) if key[0] in new]
        return [some for some in settled if some is not None]

    def _settle(self, key: tuple[Period, int]) -> Settled | None:
        calls = self._rounds[key]
        answered = self._answered.setdefault(key, set())
        waiting = tuple(sorted(calls.keys() - answered))
        what = {rank: calls[rank].what for rank in waiting}
        if not waiting:
            return None
        if self._is_broken(key):
            answered.update(waiting)
            return Settled(what=what, ranks=waiting, doings=self._doings(key))
        if len(calls) < self._world_size:
            return None
        del self._rounds[key], self._answered[key]
        return Settled(what=what, ranks=waiting, values=tuple(calls[rank].value for rank in sorted(calls)))

    def _is_broken(self, key: tuple[Period, int]) -> bool:
        calls = self._rounds[key]
        if len({call.what for call in calls.values()}) > 1 or any(call.error for call in calls.values()):
            return True
        return any(rank not in calls for rank in self._over[key[0]])

    def _doings(self, key: tuple[Period, int]) -> dict[int, str]:
        calls, over = self._rounds[key], self._over[key[0]]
        return {
            rank: _doing(calls[rank]) if rank in calls else over.get(rank, "has not called it yet")
            for rank in range(self._world_size)
        }


def _doing(call: Meeting) -> str:
    return f"called {call.what} at {call.place}" + (f" {call.error}" if call.error else "")


def told(doings: dict[int, str]) -> str:
    """Say in one line what each rank did; those that did the same, together."""
    groups: dict[str, list[int]] = {}
    for rank, doing in doings.items():
        groups.setdefault(doing, []).append(rank)
    return "; ".join(f"{fold(ranks)} {doing}" for doing, ranks in groups.items())
