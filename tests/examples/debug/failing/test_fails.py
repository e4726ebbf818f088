import pytest
import torch.distributed as dist

SHARDS = [[0, 1, 2], [3, 4, 5], [6, 8], [9, 10, 11]]


@pytest.mark.elastic(nproc=4, backend="gloo")
def test_shard(rank):
    shard = SHARDS[rank]
    assert len(shard) == 3
    dist.barrier()
