"""Warns."""

import warnings

import pytest


@pytest.mark.elastic(nproc=3, timeout=60)
def test_it(rank):
    warnings.warn("this is going away", DeprecationWarning, stacklevel=1)
    if rank == 2:
        warnings.warn("the last rank has little to do", stacklevel=1)
