"""Is restarted (`max_restarts`), and fails each time."""

import os

import pytest
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60, max_restarts=1)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        raise ValueError(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}")
    dist.barrier()
