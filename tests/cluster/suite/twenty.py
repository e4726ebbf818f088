"""Twenty tests on no ranks, on one node and on two, that pass, fail, skip, and fail as expected."""

import os
import signal
import sys

import pytest
import torch
import torch.distributed as dist

TWO_NODES = pytest.mark.elastic(nnodes=2, nproc=1, timeout=60)
TWO_BY_TWO = pytest.mark.elastic(nnodes=2, nproc=2, timeout=60, backend="gloo")
TWO_RANKS = pytest.mark.elastic(nproc=2, timeout=60)


@pytest.fixture
def weights(rank):
    return torch.full((3,), float(rank))


@pytest.fixture
def no_weights(rank):
    if rank == 1:
        raise ValueError("no weights")


@pytest.fixture
def still_in_use(rank):
    yield
    if rank == 1:
        raise ValueError("still in use")


def test_plain():
    assert "RANK_OF_A_TEST" not in os.environ


def test_plain_fails():
    assert sorted([2, 1]) == [2, 1]


@pytest.mark.skip(reason="not today")
def test_plain_skips():
    pass


@pytest.mark.parametrize("value", [1, 2])
def test_plain_parametrized(value):
    assert value < 2


@TWO_RANKS
def test_one_node(rank, world_size):
    assert (rank < 2, world_size) == (True, 2)


@pytest.mark.elastic(nproc=1, timeout=60)
def test_one_rank(rank):
    assert rank == 0


@pytest.mark.elastic(nproc=2, timeout=60, backend="gloo")
def test_one_node_reduces(rank, weights):
    dist.all_reduce(weights)
    assert weights.tolist() == [1.0] * 3


@TWO_RANKS
@pytest.mark.xfail(reason="the last rank has no data")
def test_one_node_xfails(rank):
    assert rank == 0


@TWO_RANKS
def test_one_node_fails_in_setup(rank, no_weights):
    pass


@TWO_NODES
def test_two_nodes(rank, world_size, node_rank, local_rank):
    assert (world_size, node_rank, local_rank) == (2, rank, 0)


@TWO_BY_TWO
def test_two_by_two_reduce(rank, world_size, weights):
    dist.all_reduce(weights)
    assert weights.tolist() == [6.0] * 3
    assert (world_size, os.environ["LOCAL_RANK"]) == (4, str(rank % 2))


@TWO_NODES
@pytest.mark.parametrize("value", [1, 2])
def test_two_nodes_parametrized(rank, value):
    assert rank + value < 3


@TWO_BY_TWO
def test_two_by_two_fails_while_others_wait(rank):
    if rank == 2:
        raise ValueError("the loss of rank 2 is not a number")
    dist.barrier()


@TWO_NODES
def test_two_nodes_dies(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@TWO_NODES
def test_two_nodes_exits(rank):
    if rank == 1:
        sys.exit(3)


@TWO_NODES
def test_two_nodes_skips(rank):
    pytest.skip("no data here")


@TWO_NODES
def test_two_nodes_one_skips(rank):
    if rank == 1:
        pytest.skip("no data here")


@TWO_NODES
def test_two_nodes_fails_in_teardown(rank, still_in_use, elastic_gather):
    print(f"rank {rank} is here")
    assert elastic_gather(rank) == [0, 1]
