"""Dies of SIGSEGV."""

import ctypes

import pytest
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        ctypes.string_at(0)
    dist.barrier()
