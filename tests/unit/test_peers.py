"""What a rank did counts until the controller ends ranks."""

from __future__ import annotations

from pytest_elastic import clock
from pytest_elastic.controller.peers import RankState, kill_together
from pytest_elastic.messages import RankId


def make_ranks() -> list[RankState]:
    return [
        RankState(RankId(world="w", rank=rank, local_rank=rank, node=0, group_rank=0, world_size=2, restart=0))
        for rank in range(2)
    ]


def test_what_ranks_say_of_the_kill_does_not_count() -> None:
    ranks = make_ranks()
    before = clock.monotonic_ns()
    assert all(rank.counts(before) for rank in ranks)
    kill_together(ranks)
    # The second may see the connections of the first close, and say so, before it is killed itself.
    assert not any(rank.counts(clock.monotonic_ns()) for rank in ranks)
    assert all(rank.counts(before) for rank in ranks), "what was said before, and is heard late, counts"


def test_a_second_kill_moves_nothing() -> None:
    ranks = make_ranks()
    kill_together(ranks)
    between = clock.monotonic_ns()
    kill_together(ranks)
    assert not any(rank.counts(between) for rank in ranks)
