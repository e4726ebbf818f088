"""Sets `session.shouldstop`."""

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, request):
    if rank == 1:
        request.session.shouldstop = "that is enough"


def test_never():
    pass
