import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=4, backend="gloo")
def test_mean(rank):
    shard = torch.arange(3.0) + 3 * rank
    breakpoint()
    mean = shard.sum()
    dist.all_reduce(mean)
    assert mean / 12 == 5.5
