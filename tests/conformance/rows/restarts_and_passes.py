"""Is restarted (`max_restarts`), and passes then."""

import os

import pytest
import torch.distributed as dist


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60, max_restarts=1)
def test_it(rank):
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if rank == 1:
        assert attempt == 1, f"attempt {attempt}"
    dist.barrier()
