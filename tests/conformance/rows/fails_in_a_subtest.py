"""Fails in a subtest."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, subtests, failing_now):
    for batch in range(3):
        failing_now()
        with subtests.test(batch=batch):
            assert (rank, batch) != (1, 1)
