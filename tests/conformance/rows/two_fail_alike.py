"""Two ranks fail on their own, alike."""

import pytest
import torch.distributed as dist


@pytest.fixture
def end_together():
    """Have every rank tell of its failure before one of them leaves."""
    yield
    dist.barrier()


@pytest.mark.elastic(nproc=3, backend="gloo", timeout=60)
def test_it(rank, end_together, failing_now):
    dist.barrier()
    failing_now()
    assert rank == 0, "only rank 0 is right"
