"""What is done to the agents and ranks of a launch on purpose: by its faults, and by who holds a handle on it."""

from __future__ import annotations

import selectors
import signal
from collections.abc import Callable
from typing import Final

from pytest_elastic import clock
from pytest_elastic.controller.fault_schedule import FaultSchedule
from pytest_elastic.controller.output_watch import OutputWatch
from pytest_elastic.controller.peers import AgentState, RankState, kill_together
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.roster import Roster


class Purpose:
    """Signals, new nodes, and the faults of one launch. Its methods belong to the supervisor's thread.

    Args:
        plan: The launch.
        roster: Agents and ranks.
        selector: The supervisor waits on it.
        add_agent: Starts one more agent.

    Attributes:
        faults: The faults, and when they happen.
        add_agent: Starts one more agent.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        roster: Roster,
        selector: selectors.BaseSelector,
        add_agent: Callable[[], AgentState],
    ) -> None:
        self._directory = plan.directory
        self._roster = roster
        self._selector = selector
        self._watch: OutputWatch | None = None
        self.add_agent: Final = add_agent
        self.faults: Final = FaultSchedule(plan.faults, roster, plan.directory, self, silent=plan.work == "command")

    def signal_rank(self, rank: RankState, signum: int, why: str) -> None:
        """Send a signal to a rank, which is what happened to it if it dies of that."""
        if rank.alive() and rank.handle is not None:
            if why:
                rank.fault, rank.fault_signal, rank.fault_ns = why, signum, clock.monotonic_ns()
            rank.handle.send(signum)

    def signal_agent(self, node: int, signum: int, why: str) -> bool:
        """Send a signal to an agent, and with SIGKILL to its ranks; tell whether it lived."""
        agent = self._roster.agents[node] if node < len(self._roster.agents) else None
        if agent is None or agent.handle is None or not agent.runs():
            return False
        agent.fault, agent.fault_ns = why, clock.monotonic_ns()
        agent.handle.send(signum)
        if signum == signal.SIGKILL:
            agent.lost_ns = clock.monotonic_ns()
            kill_together(self._roster.of_node(node))
        return True

    def watch_output(self) -> None:
        """Wake the supervisor whenever a rank writes, from now on."""
        if self._watch is None:
            self._watch = OutputWatch(self._directory, self._selector)
            # Nothing else may happen before they write.
            self._watch.follow(self._roster.ranks())

    @property
    def polls(self) -> bool:
        """The system cannot tell that a rank has written: the supervisor must look from time to time."""
        return self._watch is not None and self._watch.polls

    def look(self, *, ending: bool) -> None:
        """Follow what ranks write, and do what is due, unless the launch is at its end."""
        if self.faults.reads_output:
            self.watch_output()
        if self._watch is not None:
            self._watch.follow(self._roster.ranks())
        if not ending:
            self.faults.look()

    def close(self) -> None:
        """Give everything back."""
        if self._watch is not None:
            self._watch.close()
