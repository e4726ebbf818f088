"""Dies where the test is marked xfail with `raises=`."""

import os

import pytest


@pytest.mark.xfail(raises=ZeroDivisionError)
@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        os._exit(1)
