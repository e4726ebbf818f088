"""Who takes part in a launch, and what each has told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_elastic import kernel
from pytest_elastic.controller.peers import AgentState, RankState
from pytest_elastic.messages import RankId, RankWarned
from pytest_elastic.rank_directory import check_world
from pytest_elastic.report.records import AgentRecord, RankRecord, Round


class Roster:
    """The agents of a launch, and the ranks of all of its worlds.

    Attributes:
        agents: In order of start.
        worlds: Names of the worlds, in the order in which they were heard of.
        events: torch's events, as JSON.
        leftovers: What ranks left behind, a line each.
        warnings: Warnings of ranks, in the order in which they arrived.
        notes: What else whoever launched it is to know, a line each.
        rounds: When agents started ranks.
    """

    def __init__(self) -> None:
        self.agents: list[AgentState] = []
        self.worlds: list[str] = []
        self.events: list[str] = []
        self.leftovers: list[str] = []
        self.warnings: list[RankWarned] = []
        self.notes: list[str] = []
        self.rounds: list[Round] = []
        self._ranks: dict[tuple[str, int], RankState] = {}

    def begin_test(self, directory: Path) -> None:
        """Forget the last test of ranks that are kept.

        Args:
            directory: Directory of the launch's output.
        """
        self.leftovers.clear()
        self.warnings.clear()
        self.notes.clear()
        for rank in self.ranks():
            rank.begin_test(directory)

    def rank(self, id: RankId) -> RankState:  # noqa: A002 (the field's name)
        """Return a rank; it is added if nothing was heard of it before.

        Raises:
            ValueError: The name of its world is none.
        """
        key = (id.world, id.rank)
        if key not in self._ranks:
            check_world(id.world)
            self._ranks[key] = RankState(id)
            if id.world not in self.worlds:
                self.worlds.append(id.world)
        return self._ranks[key]

    def ranks(self) -> list[RankState]:
        """Return the ranks of all worlds."""
        return list(self._ranks.values())

    def of_world(self, world: str) -> list[RankState]:
        """Return the ranks of one world, in order."""
        return sorted((rank for rank in self.ranks() if rank.id.world == world), key=lambda rank: rank.id.rank)

    def last_world(self) -> list[RankState]:
        """Return the ranks of the world that formed last, in order."""
        return self.of_world(self.worlds[-1]) if self.worlds else []

    def formed_world(self, *, silent: bool) -> list[RankState]:
        """Return the ranks of the last world if all of them have started, else none.

        Args:
            silent: Ranks do not say that they have started (commands).
        """
        ranks = self.last_world()
        started = [rank for rank in ranks if rank.hello_ns is not None or (silent and rank.handle is not None)]
        return ranks if ranks and len(started) == ranks[0].id.world_size else []

    def of_node(self, node: int) -> list[RankState]:
        """Return the ranks that an agent started."""
        return [rank for rank in self.ranks() if rank.id.node == node]

    def by_pid(self) -> dict[int, RankState | AgentState]:
        """Return every process of this machine that is known, by its id."""
        everybody: list[RankState | AgentState] = [*self.ranks(), *self.agents]
        return {each.handle.pid: each for each in everybody if isinstance(each.handle, kernel.ProcessHandle)}

    def of_process(self, node: int, pid: int) -> RankState | None:
        """Return the rank of a node that has a process id, or ``None``."""
        ranks = [rank for rank in self.of_node(node) if rank.handle is not None and rank.handle.pid == pid]
        return ranks[-1] if ranks else None

    def admitted(self) -> bool:
        """Tell whether an agent has said that it, and the server behind it, are fit to start."""
        return any(agent.hello is not None for agent in self.agents)

    def over(self) -> bool:
        """Tell whether every agent has ended and no rank is alive."""
        return all(agent.ended for agent in self.agents) and not any(rank.alive() for rank in self.ranks())

    def release(self) -> None:
        """Give back what holds the processes."""
        everybody: list[RankState | AgentState] = [*self.ranks(), *self.agents]
        for process in everybody:
            if process.handle is not None:
                process.handle.close()

    def rank_records(self, directory: Path) -> tuple[RankRecord, ...]:
        """Return what is known of the ranks, for the verdict."""
        hosts = {agent.order.node: agent.host for agent in self.agents}
        return tuple(replace(rank.record(directory), host=hosts.get(rank.id.node, "")) for rank in self.ranks())

    def agent_records(self) -> tuple[AgentRecord, ...]:
        """Return what is known of the agents, for the verdict."""
        return tuple(agent.record() for agent in self.agents)
