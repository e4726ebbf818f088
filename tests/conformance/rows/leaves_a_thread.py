"""Leaves a non-daemon thread behind."""

import threading

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    if rank == 1:
        threading.Thread(target=threading.Event().wait, name="forgotten").start()
