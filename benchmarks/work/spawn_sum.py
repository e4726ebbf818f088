"""The measured work under torch's own ``elastic_launch``, which spawns ranks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from holding import hold

RANKS = int(os.environ["BENCH_RANKS"])


def launch(function: Callable[[], Any]) -> Any:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=RANKS,
        start_method="spawn",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    return elastic_launch(config, function)()


def all_reduce() -> int:
    dist.init_process_group("gloo")
    total = torch.tensor(dist.get_rank())
    dist.all_reduce(total)
    hold()
    dist.destroy_process_group()
    return int(total)


@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_sum(number: int) -> None:
    assert launch(all_reduce) == dict.fromkeys(range(RANKS), sum(range(RANKS)))
