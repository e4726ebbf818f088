"""When the faults of a launch happen, and that they do."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pytest_elastic import clock
from pytest_elastic.controller.output_watch import LineSearch
from pytest_elastic.controller.peers import RankState
from pytest_elastic.controller.roster import Roster
from pytest_elastic.faults import SIGNAL_OF_AGENT, Fault, KillRank, OnAgent, OnRank, SignalRank, StopRank

_SIGNAL_OF_RANK: Final[dict[type[Fault], signal.Signals]] = {KillRank: signal.SIGKILL, StopRank: signal.SIGSTOP}


class Hands(Protocol):
    """Who does what a fault asks for."""

    def signal_rank(self, rank: RankState, signum: int, why: str) -> None:
        """Send a signal to a rank."""

    def signal_agent(self, node: int, signum: int, why: str) -> bool:
        """Send a signal to an agent; tell whether it lived."""

    def add_agent(self) -> object:
        """Start one more agent."""


@dataclass(slots=True)
class _Pending:
    fault: Fault
    search: LineSearch | None
    due: float | None = None


class FaultSchedule:
    """The faults of one launch. Its methods belong to the supervisor's thread.

    Args:
        faults: What is to happen.
        roster: Agents and ranks.
        directory: Directory of the launch's output.
        hands: Who does it.
        silent: Ranks do not say that they have started (commands).
    """

    def __init__(
        self, faults: tuple[Fault, ...], roster: Roster, directory: Path, hands: Hands, *, silent: bool
    ) -> None:
        self._roster: Final = roster
        self._hands: Final = hands
        self._silent: Final = silent
        self._formed = False
        self._looked = 0.0
        self._stopped: list[tuple[float, RankState]] = []
        self._pending = [
            _Pending(fault, None if fault.when_output is None else LineSearch(re.compile(fault.when_output), directory))
            for fault in faults
        ]

    @property
    def reads_output(self) -> bool:
        """Tell whether a fault still waits for a line."""
        return any(pending.search is not None and pending.due is None for pending in self._pending)

    def adds_nodes(self) -> bool:
        """Tell whether a node is still to come: where a rank must write something first, while one lives."""
        adding = [pending for pending in self._pending if _adds_a_node(pending.fault)]
        if any(pending.due is not None for pending in adding):
            return True
        return bool(adding) and any(rank.alive() for rank in self._roster.ranks())

    def not_happened(self) -> tuple[str, ...]:
        """Return the faults that have not happened."""
        return tuple(repr(pending.fault) for pending in self._pending)

    def patience(self) -> float | None:
        """Return the seconds until something is due by the clock, or ``None``."""
        times = [pending.due for pending in self._pending if pending.due is not None]
        times += [due for due, _ in self._stopped]
        # What was due at the last look and could not happen waits for the next event.
        ahead = [max(0.0, due - clock.monotonic()) for due in times if due > self._looked]
        return min(ahead, default=None)

    def look(self) -> None:
        """Do what is due."""
        if not self._pending and not self._stopped:
            return
        self._formed = self._formed or bool(self._roster.formed_world(silent=self._silent))
        came = all(agent.hello is not None for agent in self._roster.agents)
        now = self._looked = clock.monotonic()
        for pending in list(self._pending):
            # The first world may need the very node that is to be added.
            if not self._formed and not (came and _adds_a_node(pending.fault) and pending.search is None):
                continue
            if pending.due is None and (pending.search is None or pending.search.find(self._writers(pending.fault))):
                pending.due = now + pending.fault.after
            if pending.due is not None and now >= pending.due and self._do(pending.fault):
                self._pending.remove(pending)
        for stopped in [stopped for stopped in self._stopped if now >= stopped[0]]:
            self._stopped.remove(stopped)
            self._hands.signal_rank(stopped[1], signal.SIGCONT, "")

    def _writers(self, fault: Fault) -> list[RankState]:
        """Return the ranks, of all worlds, whose output a fault waits for."""
        ranks = self._roster.ranks()
        if fault.of_rank is not None:
            return [rank for rank in ranks if rank.id.rank == fault.of_rank]
        if isinstance(fault, OnRank):
            return [rank for rank in ranks if rank.id.rank == fault.rank]
        if isinstance(fault, OnAgent):
            return [rank for rank in ranks if rank.id.node == fault.node]
        return ranks

    def _do(self, fault: Fault) -> bool:
        """Do it, if its target is there."""
        if isinstance(fault, OnAgent):
            return self._hands.signal_agent(fault.node, SIGNAL_OF_AGENT[type(fault)], repr(fault))
        if not isinstance(fault, OnRank):
            self._hands.add_agent()
            return True
        world = self._roster.formed_world(silent=self._silent)
        rank = next((rank for rank in world if rank.id.rank == fault.rank and not rank.doomed()), None)
        if rank is None or rank.finished is not None or not rank.alive():
            return False
        signum = fault.sig if isinstance(fault, SignalRank) else _SIGNAL_OF_RANK[type(fault)]
        self._hands.signal_rank(rank, signum, repr(fault))
        if isinstance(fault, StopRank) and fault.for_ is not None:
            self._stopped.append((clock.monotonic() + fault.for_, rank))
        return True


def _adds_a_node(fault: Fault) -> bool:
    return not isinstance(fault, (*OnRank, *OnAgent))
