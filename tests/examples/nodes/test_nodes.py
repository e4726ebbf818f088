import os

import pytest


def node_and_rank():
    return int(os.environ["GROUP_RANK"]), int(os.environ["RANK"])


@pytest.mark.parametrize("rdzv_backend", ["local", "c10d", "static"])
def test_two_nodes(elastic_launch, rdzv_backend):
    result = elastic_launch(node_and_rank, nnodes=2, nproc=2, rdzv_backend=rdzv_backend)
    assert result[3] == (1, 3)


def test_one_of_two_possible_nodes(elastic_launch):
    result = elastic_launch(node_and_rank, nnodes="1:2", agents=1, nproc=2)
    assert result.worlds == [2]


def test_launch_config(elastic_launch):
    from torch.distributed.launcher.api import LaunchConfig

    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", max_restarts=0)
    assert elastic_launch(node_and_rank, config=config).world_size == 2
