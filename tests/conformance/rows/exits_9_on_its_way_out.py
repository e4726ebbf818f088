"""Exits with code 9 by a function of `atexit`, after the test."""

import atexit
import os

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    if rank == 1:
        atexit.register(os._exit, 9)
