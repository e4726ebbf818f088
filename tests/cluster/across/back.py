"""A host whose pytest is killed in the middle of a test, and started again."""

import time

import psutil
import pytest
import torch
import torch.distributed as dist

TWO_NODES = pytest.mark.elastic(nnodes=2, nproc=1, timeout=60, backend="gloo")


@TWO_NODES
def test_before(rank):
    dist.barrier()


@TWO_NODES
def test_pytest_dies(rank):
    if rank == 1:
        # The pytest of this host: the nearest of those this rank comes from that was started with these arguments.
        pytests = [each for each in psutil.Process().parents() if "-p elastic" in " ".join(each.cmdline())]
        pytests[0].kill()
    total = torch.ones(1000)
    while True:
        dist.all_reduce(total)
        time.sleep(0.01)


@TWO_NODES
def test_after(rank):
    dist.barrier()


@TWO_NODES
def test_fails_after(rank):
    assert rank == 0
