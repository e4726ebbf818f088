"""Fails an assert while others block in a collective."""

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=4, backend="gloo", timeout=60)
def test_it(rank, failing_now):
    loss = torch.tensor(float(rank))
    dist.barrier()
    if rank == 2:
        failing_now()
        assert loss.item() < 2
    dist.all_reduce(loss)
