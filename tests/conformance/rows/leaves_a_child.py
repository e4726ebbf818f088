"""Leaves a child process behind."""

import subprocess

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    if rank == 1:
        subprocess.Popen(["sleep", "1000"])
