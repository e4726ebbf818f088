"""The measured work under this plugin. The mark, as JSON, and the number of tests come from the environment."""

from __future__ import annotations

import json
import os

import pytest
import torch
import torch.distributed as dist

from holding import hold

MARK = json.loads(os.environ["BENCH_MARK"])


@pytest.mark.elastic(**MARK)
@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_sum(number: int, rank: int, world_size: int) -> None:
    for _ in range(int(os.environ.get("BENCH_SUMS", "1"))):
        total = torch.tensor(rank)
        if MARK["backend"] is not None:
            dist.all_reduce(total)
            assert total.item() == sum(range(world_size))
    hold()
