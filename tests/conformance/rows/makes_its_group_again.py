"""Calls `init_process_group` again and again."""

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, world_size):
    for _ in range(3):
        dist.init_process_group("gloo")
        ones = torch.ones(1)
        dist.all_reduce(ones)
        assert ones.item() == world_size
        dist.destroy_process_group()
