import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=3, backend="gloo")
def test_sum_of_ranks(rank):
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == 3


@pytest.mark.elastic(nproc=3, backend="gloo")
def test_maximum_of_ranks(rank):
    largest = torch.tensor(rank)
    if rank != 1:
        print("rank", rank, "has", largest)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    assert largest == 2
