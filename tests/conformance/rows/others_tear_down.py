"""Fails, and the fixtures of the other ranks are torn down."""

import threading

import pytest
import torch.distributed as dist


@pytest.fixture
def connection(rank):
    yield
    print(f"rank {rank} has closed its connection")


@pytest.mark.elastic(nproc=3, backend="gloo", timeout=60)
def test_it(rank, connection, failing_now):
    dist.barrier()
    if rank == 1:
        failing_now()
        raise ValueError("on rank 1")
    threading.Event().wait()
