"""Raises an exception that pickles but cannot be read again."""

import pytest


class OneWayError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        raise OneWayError("this", "that")
