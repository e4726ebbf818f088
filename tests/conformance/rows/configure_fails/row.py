"""Fails in `pytest_configure` of a conftest, on the ranks only."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    pass


def test_plain():
    pass
