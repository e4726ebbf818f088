"""Two ranks fail on their own, each in its way."""

import pytest
import torch
import torch.distributed as dist


@pytest.fixture
def end_together(rank):
    """Have rank 0 fail after rank 1, and both tell of it before one of them leaves."""
    yield
    if rank == 1:
        dist.send(torch.zeros(1), dst=0)
    dist.barrier()


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank, end_together, failing_now):
    if rank == 1:
        failing_now()
        raise ValueError("the first")
    dist.recv(torch.zeros(1), src=1)
    raise KeyError("the second")
