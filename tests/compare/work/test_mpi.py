"""mpi-pytest in the mode that its documentation calls forking; MPICH's mpiexec has a time limit, a variable."""

import os

import doing
import pytest
from mpi4py import MPI

doing.when_imported(in_rank="_PYTEST_MPI_CHILD_PROCESS" in os.environ)


@pytest.mark.parallel(2)
def test_it():
    world = MPI.COMM_WORLD
    doing.act(world.rank, world.barrier, lambda: world.allreduce(1), pytest.skip)
