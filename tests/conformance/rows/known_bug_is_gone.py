"""Passes where the test is marked xfail, and strict."""

import pytest


@pytest.mark.xfail(strict=True, reason="it used to fail")
@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    pass
