"""Fails on one of two nodes while the other one waits in Python."""

import threading

import pytest
import torch.distributed as dist


@pytest.mark.elastic(nnodes=2, nproc=1, backend="gloo", timeout=60)
def test_it(rank, failing_now):
    dist.barrier()
    if rank == 1:
        failing_now()
        raise ValueError("on node 1")
    threading.Event().wait()
