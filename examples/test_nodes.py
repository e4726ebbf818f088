"""Two nodes, each with an agent of its own, meet through the rendezvous of your choice."""

import os

import pytest


def node():
    return int(os.environ["GROUP_RANK"])


@pytest.mark.parametrize("rdzv_backend", ["local", "c10d", "static", "etcd-v2"])
def test_two_nodes_meet(elastic_launch, rdzv_backend):
    result = elastic_launch(node, nnodes=2, nproc=2, rdzv_backend=rdzv_backend)

    assert result == {0: 0, 1: 0, 2: 1, 3: 1}
    assert [agent.state for agent in result.agents] == ["SUCCEEDED", "SUCCEEDED"]
