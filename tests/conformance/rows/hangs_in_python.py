"""Hangs in Python."""

import threading

import pytest


@pytest.mark.elastic(nproc=2)
def test_it(rank):
    if rank == 1:
        threading.Event().wait()
