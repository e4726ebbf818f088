"""Which nodes a launch can do without, and whether its nodes have come apart."""

from __future__ import annotations

from pytest_elastic.controller.peers import RankState
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.roster import Roster
from pytest_elastic.messages import RankId
from pytest_elastic.spec import takes_late_nodes


def waits_in_vain(roster: Roster) -> bool:
    """Tell whether all that goes on is that agents wait for a lost one, as they do once their ranks have returned.

    A node that comes instead would be of no use.
    """
    lost = _lost(roster)
    if not lost:
        return False
    world = roster.last_world()
    others = [rank for rank in world if rank.id.node not in lost]
    gone = [rank for rank in world if rank.id.node in lost]
    return bool(gone) and all(rank.finished is not None for rank in others) and all(map(_done, gone))


def misses_a_node(roster: Roster, plan: LaunchPlan) -> bool:
    """Tell whether a node is lost that the others cannot do without: all that they could do is wait for another one."""
    lost = _lost(roster)
    if not lost:
        return False
    world = roster.last_world()
    gone = [rank for rank in world if rank.id.node in lost]
    others = [rank for rank in world if rank.id.node not in lost]
    if gone and all(rank.finished is not None for rank in gone) and any(not _done(rank) for rank in others):
        return False  # its ranks had returned: nobody needs it any more
    needed = plan.config["min_nodes"] if takes_late_nodes(plan.config["rdzv_backend"]) else plan.agents
    return sum(not agent.ended for agent in roster.agents) < needed


def _lost(roster: Roster) -> set[int]:
    return {agent.order.node for agent in roster.agents if agent.lost_ns is not None and agent.ended}


def _done(rank: RankState) -> bool:
    return rank.finished is not None or rank.over()


def rivals(roster: Roster, plan: LaunchPlan, id: RankId) -> list[RankState]:  # noqa: A002 (the field's name)
    """Return the ranks that are alive in another world than this one, each under a living agent of another node.

    An agent ends its ranks before it joins a new round, and a lost one takes its ranks along. Only those of a static
    rendezvous start again one by one: they have the same ranks each time.
    """
    if plan.config["rdzv_backend"] == "static":
        return []
    return [
        rank
        for rank in roster.ranks()
        if rank.id.world != id.world and rank.id.node != id.node
        if rank.alive() and roster.agents[rank.id.node].runs()
    ]
