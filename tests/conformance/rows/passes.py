"""Passes, and so do all others."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=300)
def test_it(rank, world_size):
    assert rank < world_size == 2
