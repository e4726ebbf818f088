"""Raises."""

import pytest


def step(rank):
    raise ValueError(f"the loss of rank {rank} is not a number")


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        step(rank)
