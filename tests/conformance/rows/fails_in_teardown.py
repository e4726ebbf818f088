"""Fails in the teardown of a fixture."""

import pytest


@pytest.fixture
def model(rank, failing_now):
    yield
    if rank == 1:
        failing_now()
        raise ValueError("still in use")


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, model):
    pass
