"""A host is lost in the middle of an all-reduce; what comes then."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

FOLDER = Path(os.environ["SUITE_RECORD"]).parent
TWO_NODES = pytest.mark.elastic(nnodes=2, nproc=2, timeout=60, backend="gloo")


@TWO_NODES
def test_before(rank):
    dist.barrier()


@TWO_NODES
def test_under_way(rank):
    total = torch.ones(1000)
    while not (FOLDER / "stop").exists():
        dist.all_reduce(total)
        (FOLDER / f"reduced-{rank}").touch()


@TWO_NODES
def test_after(rank):
    dist.barrier()
    (FOLDER / "after").touch()


@TWO_NODES
def test_later(rank):
    dist.barrier()


@pytest.mark.elastic(nproc=2, timeout=60, backend="gloo")
def test_one_node(world_size):
    assert world_size == 2


def test_plain():
    pass
