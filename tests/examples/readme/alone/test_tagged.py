import pytest


@pytest.mark.elastic
def test_every_rank_is_one_of_three(rank, world_size):
    assert rank in range(3)
    assert world_size == 3
