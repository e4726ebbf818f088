"""Which samples a rank reads: a function that needs no ranks, and what comes of it on some."""

import pytest

from evenly import share_of


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 9])
def test_every_sample_once(world_size):
    shares = [share_of(rank, world_size, 7) for rank in range(world_size)]
    assert [index for share in shares for index in share] == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.elastic(nproc=3)
def test_on_ranks(rank, world_size, elastic_gather):
    shares = elastic_gather(list(share_of(rank, world_size, 7)))
    assert shares == [[0, 1, 2], [3, 4], [5, 6]]
