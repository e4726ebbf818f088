"""Skips, each rank for a reason of its own."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    pytest.skip(f"no data for rank {rank}")
