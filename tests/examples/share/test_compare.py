import random

import pytest


@pytest.mark.elastic(nproc=4)
def test_same_seed(elastic_gather):
    first = random.random()
    assert elastic_gather(first) == [first] * 4


@pytest.mark.elastic(nproc=2)
def test_checkpoint(rank, elastic_barrier, elastic_tmp_path):
    if rank == 0:
        (elastic_tmp_path / "step").write_text("7")
    elastic_barrier()
    assert (elastic_tmp_path / "step").read_text() == "7"
