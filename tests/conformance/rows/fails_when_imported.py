"""Fails when its module is imported."""

import no_such_module  # noqa: F401
import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    pass
