"""Tests on as many as three hosts, of which some may be slow or gone."""

import socket
import time

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nnodes=3, nproc=1, timeout=60, backend="gloo")
def test_three_nodes(rank, node_rank, elastic_gather):
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == 3
    hosts = elastic_gather(socket.gethostname())
    assert hosts == ["host0", "host1", "host2"]
    assert hosts[node_rank] == socket.gethostname()


@pytest.mark.elastic(nnodes=2, nproc=1, timeout=60)
def test_first_two(elastic_gather):
    assert elastic_gather(socket.gethostname()) == ["host0", "host1"]


@pytest.mark.elastic(nnodes="1:4", nproc=1, timeout=60)
def test_as_many_as_there_are(world_size):
    assert world_size == 3


@pytest.mark.elastic(nnodes=3, nproc=2, timeout=60, backend="gloo")
def test_last_rank_fails(rank):
    if rank == 5:
        raise ValueError("the last")
    dist.barrier()


@pytest.mark.elastic(nnodes=4, nproc=1, timeout=60)
def test_four_nodes():
    pass


@pytest.mark.elastic(nproc=2, timeout=60)
def test_one_node(elastic_gather):
    assert elastic_gather(socket.gethostname()) == ["host0"] * 2


@pytest.mark.elastic(nnodes=3, nproc=1, timeout=60)
@pytest.mark.parametrize("times", range(3))
def test_how_long(times, elastic_barrier):
    began = time.monotonic()
    elastic_barrier()
    assert time.monotonic() - began < 30
