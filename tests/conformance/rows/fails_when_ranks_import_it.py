"""Fails when its module is imported, on the ranks only."""

import os

import pytest

if "PYTEST_ELASTIC_RUN" in os.environ:
    import no_such_module  # noqa: F401


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    pass
