"""Times launches; run by run.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.launcher.api import elastic_launch as torch_elastic_launch

from pytest_elastic.controller.launcher import ElasticLaunch

RANKS = 4
SUMS = dict.fromkeys(range(RANKS), 6)


def all_reduce() -> int:
    dist.init_process_group("gloo")
    tensor = torch.tensor(dist.get_rank())
    dist.all_reduce(tensor)
    dist.destroy_process_group()
    return int(tensor)


def test_launches(request: pytest.FixtureRequest, elastic_launch: ElasticLaunch, free_port_factory: Any) -> None:
    runs = int(request.config.getoption("--runs"))

    def torchs() -> None:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=RANKS,
            start_method="spawn",
            rdzv_backend="c10d",
            rdzv_endpoint=f"localhost:{free_port_factory(1)[0]}",
            max_restarts=0,
        )
        assert torch_elastic_launch(config, all_reduce)() == SUMS

    def ours(**settings: Any) -> Callable[[], None]:
        def launch() -> None:
            assert elastic_launch(all_reduce, nproc=RANKS, **settings) == SUMS

        return launch

    contestants = {
        "torch elastic_launch, spawn": torchs,
        "this plugin": ours(),
        "this plugin, agent inline": ours(agent="inline"),
        "this plugin, spawn": ours(start_method="spawn"),
    }
    for name in ("this plugin", "this plugin, agent inline"):
        contestants[name]()  # the server is up from here on
    for _ in range(runs):
        for name, launch in contestants.items():
            begin = time.perf_counter()
            launch()
            print(f"\nMEASURED \t{name}\t{time.perf_counter() - begin}")
