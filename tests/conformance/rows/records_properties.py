"""Records properties."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, record_property):
    record_property("model", "small")
    record_property("loss", 0.5 + rank)
