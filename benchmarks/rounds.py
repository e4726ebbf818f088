"""Comparisons: everybody takes a turn in each round, so that a machine whose speed drifts is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from contestant import ContestantError

Turn = Callable[[], Mapping[str, float]]
"""Does one turn and returns the seconds of each row that it measures."""


class Closes(Protocol):
    """Something that is open while its turns are taken."""

    def close(self) -> None:
        """End it."""


@dataclass(kw_only=True, slots=True)
class Round:
    """A comparison in the making.

    Attributes:
        absent: Why somebody is not in it, by name.
    """

    absent: dict[str, str] = field(default_factory=dict)
    _turns: dict[str, Turn] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    def enter(self, name: str, start: Callable[[], tuple[Closes, Turn]], *, warm_up: int = 1) -> None:
        """Start a contestant and have it warm up; if that fails it is absent."""
        try:
            closes, turn = start()
            self._open.callback(closes.close)
            for _ in range(warm_up):
                turn()
        except ContestantError as error:
            self.absent[name] = str(error)
        except BaseException:
            self._open.close()
            raise
        else:
            self._turns[name] = turn

    def run(self, rounds: int) -> dict[str, list[float]]:
        """Run the rounds, end the contestants, and return the seconds of each row."""
        times: dict[str, dict[str, list[float]]] = {name: {} for name in self._turns}
        with self._open:
            for _ in range(rounds):
                for name, turn in list(self._turns.items()):
                    try:
                        for row, value in turn().items():
                            times[name].setdefault(row, []).append(value)
                    except ContestantError as error:
                        self.absent[name] = str(error)
                        del self._turns[name], times[name]
        return {row: values for rows in times.values() for row, values in rows.items()}

    def notes(self) -> list[str]:
        """Return a line for each that is absent."""
        return [f"Absent: {name}: {_short(reason)}" for name, reason in self.absent.items()]


def _short(reason: str) -> str:
    # A traceback says at its beginning where it is from, and at its end what happened.
    return reason if len(reason) <= 300 else f"{reason[:60]} ... {reason[-230:]}"
