"""A sum and a search over ranks, tested with the marker and a process group."""

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=[2, 3], backend="gloo")
def test_sum(rank, world_size):
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == sum(range(world_size))


@pytest.mark.elastic(nproc=2)
def test_who_has_it(rank, elastic_gather):
    found = rank == 1
    if rank == 1:
        assert found, "rank 1 did not find it"
    assert elastic_gather(found) == [False, True]


def test_of_one_process(request):
    assert request.node.get_closest_marker("elastic") is None
