"""No launch stalls."""

from __future__ import annotations

import os
import statistics
import time

import pytest
import torch.distributed as dist

from pytest_elastic.controller.launcher import ElasticLaunch

LAUNCHES = int(os.environ.get("SOAK_RUNS", "500"))
LONGEST = 5
"""Medians: a resolver's time-out is 5 s, torch's back-off after a refused connection half a second and more."""


def barrier() -> None:
    dist.init_process_group("gloo")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("nproc", [4, 8])
def test_500_launches(elastic_launch: ElasticLaunch, nproc: int) -> None:
    elastic_launch(barrier, nproc=nproc, timeout=60)
    times = []
    for _ in range(LAUNCHES):
        begin = time.perf_counter()
        elastic_launch(barrier, nproc=nproc, timeout=60)
        times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    print(f"{LAUNCHES} launches of {nproc} ranks: median {median:.3f} s, slowest {max(times) / median:.2f} times that")
    assert max(times) < LONGEST * median, sorted(times)[-5:]


def test_20_of_20_restarts_and_second_groups(elastic_launch: ElasticLaunch) -> None:
    for _ in range(20):
        assert elastic_launch(restarted, nproc=4, max_restarts=1, timeout=60).restarts == 1
        assert elastic_launch(three_groups, nproc=4, timeout=60) == dict.fromkeys(range(4), 3)
        elastic_launch(over_tcp, nproc=4, timeout=60)


def restarted() -> None:
    dist.init_process_group("gloo")
    dist.barrier()
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and dist.get_rank() == 1:
        raise ValueError("first attempt")
    dist.barrier()


def three_groups() -> int:
    for _ in range(3):
        barrier()
    return 3


def over_tcp() -> None:
    where = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    dist.init_process_group(
        "gloo", init_method=where, rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
    )
    dist.barrier()
