"""Nodes that were lost, and whether that is what a launch failed of."""

from __future__ import annotations

import re
from typing import Final

from pytest_elastic.messages import AgentFinished
from pytest_elastic.report.culprit import Blame, is_peer_loss
from pytest_elastic.report.records import AgentRecord, LaunchRecord

_EXCEPTION: Final = re.compile(r"[A-Za-z_][\w.]*(: |$)")


def lost_agents(record: LaunchRecord) -> list[AgentRecord]:
    """Return the agents that died without a word or left by a signal, the first one first."""
    if record.server_lost is not None:
        return []  # they died with the server
    lost = [agent for agent in record.agents if agent.lost_ns is not None]
    return sorted(lost, key=lambda agent: agent.lost_ns or 0)


def agent_at_fault(record: LaunchRecord, blame: Blame, time_ns: int) -> AgentRecord | None:
    """Return the lost agent of the last world that comes before a rank's failure in the order of blame.

    An agent that is gone takes its ranks along, and other nodes lose their peers: it comes before ranks that were ended
    or lost a peer, and before those that failed on their own after it. So does an agent whose error kept it from
    starting its ranks again: without that, their failure would have been made up for.

    Args:
        record: The launch.
        blame: Place of the rank that failed first.
        time_ns: When that was.
    """
    if (kept := _kept_from_restarting(record)) is not None:
        return kept
    if blame > Blame.OWN and (raised := _raised_by_itself(record)) is not None:
        return raised
    nodes = {rank.id.node for rank in record.last_world()}
    for agent in lost_agents(record):
        first = blame > Blame.OWN or (agent.lost_ns is not None and agent.lost_ns < time_ns)
        if agent.node in nodes and first and _was_at_work(agent, record):
            return agent
    return None


def _raised_by_itself(record: LaunchRecord) -> AgentRecord | None:
    """Return an agent with an exception of its own, which ends its ranks and takes peers away from others.

    That a rendezvous is closed an agent hears where another node has given up: it is no cause. Nor is that the store
    is gone, which one of the agents hosts, where the workers of another one had failed, or that one is lost.
    """
    others_end = any(a.finished is not None and _gave_up(a.finished) for a in record.agents) or lost_agents(record)
    for agent in record.agents:
        end = agent.finished
        if end is not None and end.exception is not None and end.left_ns is None:
            last = _last_exception(end.traceback)
            closed = "RendezvousClosedError" in last or "RendezvousGracefulExitError" in last
            name, _, message = last.partition(": ")
            if not closed and not (others_end and is_peer_loss(name, message)):
                return agent
    return None


def _last_exception(traceback: str) -> str:
    """Return the line of a traceback with the exception; more lines of its text may follow, such as a stack of C++."""
    lines = traceback.rstrip().splitlines()
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1] if lines else "")


def _gave_up(end: AgentFinished) -> bool:
    """Tell whether an agent ended because its workers had failed."""
    return end.state == "FAILED" and end.exception is None


def _kept_from_restarting(record: LaunchRecord) -> AgentRecord | None:
    """Return an agent that failed in the middle of a restart, if no other one had given up because of its workers."""
    ends = [agent.finished for agent in record.agents if agent.finished is not None]
    if any(_gave_up(end) for end in ends):
        return None
    for agent in record.agents:
        end = agent.finished
        started = max((first.restart for first in agent.rounds), default=0)
        if end is not None and end.exception is not None and end.left_ns is None and end.restarts > started:
            return agent
    return None


def _was_at_work(agent: AgentRecord, record: LaunchRecord) -> bool:
    """Tell whether ranks of the agent were still at work when it was lost: then others have lost them too."""
    ranks = [rank for rank in record.last_world() if rank.id.node == agent.node]
    return any(rank.finished is None for rank in ranks)
