"""The measured work under torchrunx, which starts an agent and ranks for each launch."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
import torchrunx

RANKS = int(os.environ["BENCH_RANKS"])


def all_reduce() -> int:
    total = torch.tensor(dist.get_rank())
    dist.all_reduce(total)
    return int(total)


@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_sum(number: int) -> None:
    launcher = torchrunx.Launcher(
        hostnames=["localhost"],
        workers_per_host=RANKS,
        backend="gloo",
        extra_env_vars={name: os.environ[name] for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")},
    )
    results = launcher.set_logging_handlers(None).run(all_reduce)
    assert [results.rank(rank) for rank in range(RANKS)] == [sum(range(RANKS))] * RANKS
