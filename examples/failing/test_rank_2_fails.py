"""Fails on rank 2 of 4, to show what the report of a failure looks like; `make demo` runs it by its name."""

import pytest
import torch.distributed as dist

SHARDS = [[0, 1, 2], [3, 4, 5], [6, 8], [9, 10, 11]]  # Sample 7 got lost.


@pytest.mark.elastic(nproc=4, backend="gloo")
def test_shard(rank):
    shard = SHARDS[rank]
    print(f"rank {rank} reads {shard}")
    assert shard == list(range(3 * rank, 3 * rank + 3))
    dist.barrier()
