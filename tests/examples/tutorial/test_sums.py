import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=3, backend="gloo")
def test_sum_of_ranks(rank):
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == 3
