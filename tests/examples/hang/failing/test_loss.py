import pytest
import torch
import torch.distributed as dist


def log(loss, rank):
    if rank == 0:
        total = loss.clone()
        dist.all_reduce(total)  # on rank 0 alone
        print(f"loss {total.item()}")


@pytest.mark.elastic(nproc=3, backend="gloo", timeout=5)
def test_loss(rank):
    loss = torch.tensor(float(rank))
    log(loss, rank)
    dist.barrier()
    assert loss.item() == rank
