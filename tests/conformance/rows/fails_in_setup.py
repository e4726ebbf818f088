"""Fails in the set-up of a fixture."""

import pytest
import torch.distributed as dist


@pytest.fixture
def model(rank, failing_now):
    if rank == 1:
        failing_now()
        raise ValueError("no weights")
    dist.barrier()


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank, model):
    pass
