"""Fails on one rank where the test is marked xfail."""

import pytest
import torch.distributed as dist


@pytest.mark.xfail(strict=True, raises=ZeroDivisionError, reason="the last rank has no data")
@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        print(1 / 0)
    dist.barrier()
