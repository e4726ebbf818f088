"""Hangs because it was stopped (SIGSTOP)."""

import os
import signal

import pytest


@pytest.mark.elastic(nproc=2)
def test_it(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
