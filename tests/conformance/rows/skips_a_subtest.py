"""Skips a subtest."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, subtests):
    for batch in range(3):
        with subtests.test(batch=batch):
            if batch == rank:
                pytest.skip("no such batch")
