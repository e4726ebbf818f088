"""Add up the ranks: in a test that runs on every rank, and in a function that a test launches."""

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=4, backend="gloo")
def test_all_reduce(rank, world_size):
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == sum(range(world_size))


def _dist_sum():
    dist.init_process_group("gloo")
    total = torch.tensor(dist.get_rank())
    dist.all_reduce(total)
    dist.destroy_process_group()
    return total.item()


def test_dist_sum(elastic_launch):
    assert elastic_launch(_dist_sum, nproc=4) == {0: 6, 1: 6, 2: 6, 3: 6}
