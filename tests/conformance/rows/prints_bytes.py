"""Prints bytes that are not UTF-8."""

import os

import pytest


@pytest.mark.elastic(nproc=1, timeout=60)
def test_it(rank, failing_now):
    os.write(1, b"caf\xe9 \xff\x00\n")
    failing_now()
    assert rank == 1
