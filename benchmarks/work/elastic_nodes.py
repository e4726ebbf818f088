"""How long two nodes take to become one, and one to become two, and where the time goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pytest_elastic.controller.launcher import ElasticLaunch

RUNS = int(os.environ["BENCH_TESTS"])


def train(done: Path) -> None:
    print(f"begun {time.monotonic()}", flush=True)
    dist.init_process_group("gloo")
    print(f"formed {time.monotonic()} of {dist.get_world_size()}", flush=True)
    try:
        while not done.exists():
            dist.all_reduce(torch.ones(1))
            time.sleep(0.01)
    except RuntimeError:
        print(f"lost {time.monotonic()}", flush=True)
        raise


@pytest.mark.parametrize("backend", ["c10d", "etcd-v2", "etcd"])
def test_down(elastic_launch: ElasticLaunch, tmp_path: Path, backend: str) -> None:
    for number in range(RUNS):
        done = tmp_path / str(number)
        begin = time.monotonic()
        with elastic_launch.start(
            train, done, nnodes="1:2", nproc=2, max_restarts=1, rdzv_backend=backend, timeout=60
        ) as run:
            formed = max(float(run.wait_for_output(r"formed (\S+) of 4", rank=rank)[1]) for rank in range(4))
            killed = time.monotonic()
            run.agents[1].kill()
            left = next(rank for rank, each in run.ranks.items() if each.agent == 0)
            lost = float(run.wait_for_output(r"lost (\S+)", rank=left)[1])
            again = float(run.wait_for_output(r"formed (\S+) of 2")[1])
            run.close()
        print(f"\nMEASURED\t{backend}: both nodes meet\t{formed - begin}")
        print(f"MEASURED\t{backend}: the others notice the loss\t{lost - killed}")
        print(f"MEASURED\t{backend}: they meet again, as one\t{again - lost}")


@pytest.mark.parametrize("backend", ["c10d", "etcd-v2", "etcd"])
def test_up(elastic_launch: ElasticLaunch, tmp_path: Path, backend: str) -> None:
    for number in range(RUNS):
        done = tmp_path / str(number)
        with elastic_launch.start(
            train, done, nnodes="1:2", nproc=2, agents=1, rdzv_backend=backend, timeout=60
        ) as run:
            run.wait_for_output("formed .* of 2")
            added = time.monotonic()
            run.add_agent()
            formed = float(run.wait_for_output(r"formed (\S+) of 4")[1])
        print(f"\nMEASURED\t{backend}: from one node to two\t{formed - added}")
