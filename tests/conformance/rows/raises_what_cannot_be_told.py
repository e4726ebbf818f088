"""Raises an exception whose `__str__` raises."""

import pytest


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        raise MuteError
