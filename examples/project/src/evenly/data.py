"""Which samples a rank reads."""


def share_of(rank, world_size, count):
    """Return the indices of a rank's samples: neighbours, and for no rank more than one more than for another."""
    each, more = divmod(count, world_size)
    begin = rank * each + min(rank, more)
    return range(begin, begin + each + (rank < more))
