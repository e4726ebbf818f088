"""Calls `pytest.exit()`."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        pytest.exit("the machine is on fire", returncode=7)


def test_never():
    pass
