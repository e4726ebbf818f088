import pytest
import torch
import torch.distributed as dist


def log(loss, rank):
    if rank == 0:
        total = loss.clone()
        dist.all_reduce(total)
        print(f"loss {total.item()}")


@pytest.mark.elastic(nproc=3, backend="gloo", timeout=5)
def test_loss(rank):
    loss = torch.tensor(float(rank))
    dist.all_reduce(loss)
    log(loss, rank)
    dist.broadcast(loss, src=0)
    assert loss.item() == 3
