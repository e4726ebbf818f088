import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=3, backend="gloo", timeout=5)
def test_average(rank, world_size):
    loss = torch.tensor(float(rank))
    dist.all_reduce(loss)
    if rank == 0:
        dist.barrier()
    dist.broadcast(loss, src=0)
    assert loss / world_size == 1
