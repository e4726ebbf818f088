"""Hangs in a collective, the ranks in different ones."""

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=3, backend="gloo")
def test_it(rank):
    loss = torch.tensor(float(rank))
    dist.all_reduce(loss)
    if rank == 0:
        dist.barrier()
    dist.broadcast(loss, src=0)
