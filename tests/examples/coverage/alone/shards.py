def shard_of(rank, world_size, items):
    if rank == world_size - 1:
        return items[rank:]
    return items[rank : rank + 1]
