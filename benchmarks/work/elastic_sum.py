"""The measured work under this plugin: settings come from the environment."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

RANKS = int(os.environ["BENCH_RANKS"])
TESTS = range(int(os.environ["BENCH_TESTS"]))


@pytest.mark.elastic(nproc=RANKS, backend="gloo", isolation=os.environ["BENCH_ISOLATION"])
@pytest.mark.parametrize("number", TESTS)
def test_sum(number: int, rank: int, world_size: int) -> None:
    total = torch.tensor(rank)
    dist.all_reduce(total)
    assert total.item() == sum(range(world_size))
