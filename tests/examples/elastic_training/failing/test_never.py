import pytest

from pytest_elastic import KillRank


@pytest.mark.elastic(nproc=2, faults=[KillRank(1, when_output="step 99")])
def test_never(rank):
    for step in range(10):
        print("step", step, flush=True)
