"""Returns early while others block in a collective."""

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        return
    dist.all_reduce(torch.ones(1))
