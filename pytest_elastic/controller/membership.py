"""Which nodes a launch can do without, and whether its nodes have come apart."""

from __future__ import annotations

from pytest_elastic.controller.peers import RankState
from pytest_elastic.controller.plan import LaunchPlan, takes_late_nodes
from pytest_elastic.controller.roster import Roster
from pytest_elastic.messages import RankId


def misses_a_node(roster: Roster, plan: LaunchPlan) -> bool:
    """Tell whether a node is lost that the others cannot do without: all that they can do is wait."""
    lost = [agent.order.node for agent in roster.agents if agent.lost_ns is not None and agent.ended]
    if not lost:
        return False
    world = roster.last_world()
    done = all(rank.finished is not None or rank.over() for rank in world)
    if done and any(rank.id.node in lost for rank in world):
        # Where the work of the others is done, their agents wait for the lost one before they end.
        return all(rank.finished is not None for rank in world if rank.id.node not in lost)
    needed = plan.config["min_nodes"] if takes_late_nodes(plan.config["rdzv_backend"]) else plan.agents
    return sum(not agent.ended for agent in roster.agents) < needed


def rivals(roster: Roster, id: RankId) -> list[RankState]:  # noqa: A002 (the field's name)
    """Return the ranks that are alive in another world than this one, each under a living agent of another node.

    An agent ends its ranks before it joins a new round, and a lost one takes its ranks along.
    """
    return [
        rank
        for rank in roster.ranks()
        if rank.id.world != id.world and rank.id.node != id.node
        if rank.alive() and roster.agents[rank.id.node].runs()
    ]
