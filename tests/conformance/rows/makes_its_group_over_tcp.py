"""Makes its group by a `tcp://` address."""

import os

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, world_size):
    address = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    ones = torch.ones(1)
    dist.all_reduce(ones)
    assert ones.item() == world_size
    dist.destroy_process_group()
