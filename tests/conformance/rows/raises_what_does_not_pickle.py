"""Raises an exception that does not pickle."""

import threading

import pytest


class LostError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, failing_now):
    if rank == 1:
        failing_now()
        raise LostError("the socket is gone")
