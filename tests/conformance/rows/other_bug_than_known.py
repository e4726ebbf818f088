"""Fails where the test is marked xfail, with another exception than `raises=` names."""

import pytest


@pytest.mark.xfail(raises=ZeroDivisionError)
@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        raise ValueError("something else")
