import os
import signal

import pytest

from pytest_elastic import AgentFailedError


def rank():
    return int(os.environ["RANK"])


def test_agent_fails(elastic_launch):
    with pytest.raises(AgentFailedError, match="lost the lease") as failed:
        elastic_launch(rank, nproc=2, agent_error=RuntimeError("lost the lease"))
    assert isinstance(failed.value.agent.exception, RuntimeError)
    assert failed.value.agent.rendezvous_shutdown


def test_agent_is_told_to_stop(elastic_launch):
    from torch.distributed.elastic.multiprocessing.api import SignalException

    stop = SignalException("preempted", signal.SIGTERM)
    result = elastic_launch(rank, nproc=2, agent_error=stop, check=False)
    assert isinstance(result.agents[0].exception, SignalException)
    assert not result.agents[0].rendezvous_shutdown


def test_patched_agent(elastic_launch, monkeypatch):
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    rounds = []
    start = LocalElasticAgent._start_workers
    monkeypatch.setattr(LocalElasticAgent, "_start_workers", lambda *args: rounds.append(1) or start(*args))
    elastic_launch(rank, nproc=2, agent="inline")
    assert rounds == [1]
