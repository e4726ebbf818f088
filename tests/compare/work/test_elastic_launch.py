"""torch's ``elastic_launch`` in a plain test, as torch's own tests and many projects use it."""

from datetime import timedelta

import doing
import pytest
import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

doing.when_imported(in_rank=doing.is_child())


def work():
    # It has no time limit of its own for a test; collectives of gloo have.
    dist.init_process_group("gloo", timeout=timedelta(seconds=doing.OWN_LIMIT))
    doing.act(dist.get_rank(), dist.barrier, lambda: dist.all_reduce(torch.ones(1)), pytest.skip)
    dist.destroy_process_group()
    return dist.is_initialized()


def test_it():
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        start_method="spawn",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    assert elastic_launch(config, work)() == {0: False, 1: False}
