"""Fails, and another rank hangs in the teardown of a fixture."""

import threading

import pytest
import torch.distributed as dist


@pytest.fixture
def connection(rank):
    yield
    if rank == 0:
        threading.Event().wait()


@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank, connection, failing_now):
    dist.barrier()
    if rank == 1:
        failing_now()
        raise ValueError("on rank 1")
    threading.Event().wait()
