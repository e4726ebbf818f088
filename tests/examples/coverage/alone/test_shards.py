import pytest
from shards import shard_of


@pytest.mark.elastic(nproc=2)
def test_every_item_is_in_one_shard(rank, world_size, elastic_gather):
    parts = elastic_gather(shard_of(rank, world_size, [1, 2, 3]))
    assert sum(parts, []) == [1, 2, 3]
