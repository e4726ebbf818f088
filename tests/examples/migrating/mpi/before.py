"""A sum and a search over ranks, tested with mpi-pytest."""

import pytest
from mpi4py import MPI
from pytest_mpi import parallel_assert


@pytest.mark.parallel([2, 3])
def test_sum():
    world = MPI.COMM_WORLD
    assert world.allreduce(world.rank) == sum(range(world.size))


@pytest.mark.parallel(2)
def test_who_has_it():
    world = MPI.COMM_WORLD
    found = world.rank == 1
    parallel_assert(found, "rank 1 did not find it", participating=world.rank == 1)
    assert world.allgather(found) == [False, True]


def test_of_one_process():
    assert MPI.COMM_WORLD.size == 1
