"""Dies of SIGABRT."""

import os

import pytest
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        os.abort()
    dist.barrier()
