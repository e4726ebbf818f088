"""The times that end a launch, or a part of it: the deadline, and the grace after a failure."""

from __future__ import annotations

import math
from typing import Final

from pytest_elastic import clock

_AGES: Final = 1e9
"""Seconds after which no deadline counts: an int may be too large to add to a time."""


class Clocks:
    """Deadlines of one launch, by ``time.monotonic()``. They can be stopped, while a person debugs a rank.

    Args:
        grace: Seconds from a failure to the end of those that it concerns.
    """

    def __init__(self, *, grace: float) -> None:
        self._grace = grace
        self._deadline = math.inf
        self._after_call: float | None = None
        self._end = math.inf
        self._bereft = math.inf
        self._apart = math.inf
        self._is_apart = False
        self._worlds: dict[str, float] = {}
        self._stopped_at: float | None = None
        self._stood = 0.0

    def _now(self) -> float:
        """Return the time without that for which the clocks have stood still."""
        return (clock.monotonic() if self._stopped_at is None else self._stopped_at) - self._stood

    def pause(self) -> None:
        """Have the clocks stand still."""
        if self._stopped_at is None:
            self._stopped_at = clock.monotonic()

    def resume(self) -> None:
        """Have the clocks go on."""
        if self._stopped_at is not None:
            self._stood += clock.monotonic() - self._stopped_at
            self._stopped_at = None

    @property
    def stood_for(self) -> float:
        """Return for how many seconds the clocks have stood still so far."""
        return self._stood + (0.0 if self._stopped_at is None else clock.monotonic() - self._stopped_at)

    def start(self, timeout: float | None) -> None:
        """Count the deadline from now on.

        Args:
            timeout: Seconds until it comes, or ``None`` for none.
        """
        self._deadline = math.inf if timeout is None else self._now() + min(timeout, _AGES)
        self._after_call = None

    def rank_failed(self, world: str) -> None:
        """Note that a rank has failed: the others of its world get the grace time, counted from the first failure."""
        self._worlds.setdefault(world, self._now() + self._grace)

    def agent_failed(self, *, alone: bool) -> None:
        """Note that an agent has failed for good: other nodes get the grace time."""
        if self._end == math.inf:
            self._end = self._now() + (0.0 if alone else self._grace)

    def note_bereft(self, bereft: bool) -> None:
        """Note whether a node is lost that the others cannot do without: they get the grace time, unless one comes."""
        if not bereft:
            self._bereft = math.inf
        elif self._bereft == math.inf:
            self._bereft = self._now() + self._grace

    def note_apart(self, apart: bool) -> None:
        """Note whether some ranks are done with their test and others are not: that may take for the grace time."""
        if apart is not self._is_apart:
            self._is_apart = apart
            self._apart = self._now() + self._grace if apart else math.inf

    def apart_for_long(self) -> bool:
        """Tell, once, that ranks have been apart for longer than the grace time."""
        if self._now() < self._apart:
            return False
        self._apart = math.inf
        return True

    def shorten(self, seconds: float) -> bool:
        """Have the deadline come in some seconds; return whether it would have come later."""
        earlier = self._now() + min(seconds, _AGES)
        later, self._deadline = self._deadline > earlier, min(self._deadline, earlier)
        return later

    def limit_call(self, seconds: float) -> bool:
        """Do as :meth:`shorten`, until the call is over."""
        before = self._deadline
        if not self.shorten(seconds):
            return False
        self._after_call = before
        return True

    @property
    def limits_call(self) -> bool:
        """The deadline is that of the call."""
        return self._after_call is not None

    def call_is_over(self) -> None:
        """Have the deadline be the one that was there before the call."""
        if self._after_call is not None:
            self._deadline, self._after_call = self._after_call, None

    def patience(self) -> float | None:
        """Return the seconds until the next of these times, a day at most; ``None`` if there is none."""
        nearest = min(self._deadline, self._end, self._bereft, self._apart, *self._worlds.values(), math.inf)
        if nearest == math.inf or self._stopped_at is not None:
            return None
        return min(clock.LONG, max(0.0, nearest - self._now()))

    def deadline_has_come(self) -> bool:
        """Tell, once, that the deadline has come."""
        if self._now() < self._deadline:
            return False
        self._deadline, self._after_call = math.inf, None
        return True

    @property
    def ends(self) -> bool:
        """An agent has failed for good."""
        return self._end != math.inf

    def end_has_come(self) -> bool:
        """Tell, once, that the grace time after an agent's failure is over."""
        if self._now() < min(self._end, self._bereft):
            return False
        self._end = self._bereft = math.inf
        return True

    def expired_worlds(self) -> list[str]:
        """Return, once each, the worlds whose grace time is over."""
        now = self._now()
        expired = [world for world, ends in self._worlds.items() if now >= ends]
        # Kept with no time: what fails in such a world from now on starts no second grace.
        self._worlds.update(dict.fromkeys(expired, math.inf))
        return expired
