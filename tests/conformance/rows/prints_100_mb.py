"""Prints 100 MB."""

import pytest


@pytest.mark.elastic(nproc=1, timeout=60)
def test_it(rank, failing_now):
    print("the beginning")
    for _ in range(100):
        print("x" * 1_000_000)
    print("the end")
    failing_now()
    assert rank == 1
