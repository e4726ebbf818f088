"""Tests for two nodes: on one machine both nodes are there, on a cluster each is a machine."""

import socket

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nnodes=2, nproc=2, backend="gloo")
def test_all_reduce(rank, world_size):
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == sum(range(world_size))


@pytest.mark.elastic(nnodes=2, nproc=1)
def test_hosts(node_rank, elastic_gather):
    hosts = elastic_gather((node_rank, socket.gethostname()))
    print(hosts)
    assert [node for node, _ in hosts] == [0, 1]


@pytest.mark.elastic(nproc=2, backend="gloo")
def test_on_one_node(world_size):
    assert world_size == 2


def test_plain():
    assert not dist.is_initialized()
