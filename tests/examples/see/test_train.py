import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, backend="gloo")
def test_training(rank):
    loss = torch.tensor(1.0 + rank)
    dist.all_reduce(loss)
    print("loss", loss.item())
