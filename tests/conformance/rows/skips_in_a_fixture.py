"""Skips in a fixture on one rank only."""

import pytest


@pytest.fixture
def data(rank):
    if rank == 1:
        pytest.skip("no data here")


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, data):
    pass
