"""Skips, all alike."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    pytest.skip("no data here")
