"""Whether an agent is what a launch failed of."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from pytest_elastic.messages import AgentFinished, RankExited, RankId
from pytest_elastic.report.culprit import Blame
from pytest_elastic.report.lost import agent_at_fault
from pytest_elastic.report.records import AgentRecord, LaunchRecord, RankRecord

STORE_IS_GONE = "torch.distributed.DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed."
WITH_STACK = (
    f"{STORE_IS_GONE}\nException raised from recvBytes at Utils.hpp:686 (most recent call first):\nframe #0: c10::Error"
)


def agent(node: int, traceback: str = "", state: Literal["SUCCEEDED", "FAILED"] = "FAILED") -> AgentRecord:
    end = AgentFinished(
        node=node,
        state=state,
        exception=b"pickled" if traceback else None,
        traceback=f"Traceback (most recent call last):\n  ...\n{traceback}\n" if traceback else "",
        shutdowns=1,
        rounds=1,
        restarts=0,
        group_rank=node,
    )
    return AgentRecord(node=node, finished=end, exitcode=1, killed=False, said_hello=True)


def at_fault(*agents: AgentRecord) -> int | None:
    """Return the node that is at fault in a launch whose rank 0 has died of SIGABRT."""
    id = RankId(world="w", rank=0, local_rank=0, node=0, group_rank=0, world_size=2, restart=0)  # noqa: A001
    died = RankRecord(id=id, directory=Path(), exited=RankExited(id=id, exitcode=-6, time_ns=5, stopped=False))
    record = LaunchRecord(
        name="test_it",
        work="test",
        timeout=60,
        timed_out=False,
        started_ns=0,
        ended_ns=9,
        nodes=2,
        nproc=1,
        worlds=("w",),
        ranks=(died,),
        agents=agents,
        events=(),
        leftovers=(),
        directory=Path(),
    )
    found = agent_at_fault(record, Blame.DOUBTFUL, 5)
    return None if found is None else found.node


def test_an_agent_that_raised_is_at_fault() -> None:
    assert at_fault(agent(0), agent(1, "ValueError: of its own")) == 1


@pytest.mark.parametrize("hears", [STORE_IS_GONE, "torch.distributed.elastic.rendezvous.api.RendezvousClosedError"])
def test_an_agent_that_hears_that_another_has_given_up_is_not(hears: str) -> None:
    assert at_fault(agent(0), agent(1, hears)) is None


def test_an_agent_whose_store_is_gone_while_nobody_has_given_up_is() -> None:
    assert at_fault(agent(0, state="SUCCEEDED"), agent(1, STORE_IS_GONE)) == 1


@pytest.mark.parametrize("hears", [STORE_IS_GONE, WITH_STACK])
def test_an_agent_whose_store_is_gone_with_a_lost_node_is_not(hears: str) -> None:
    lost = AgentRecord(node=0, finished=None, exitcode=-9, killed=False, said_hello=True, lost_ns=4)
    assert at_fault(lost, agent(1, hears)) == 0
