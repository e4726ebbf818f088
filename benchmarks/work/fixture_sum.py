"""The measured work launched by the fixture of this plugin; its settings, as JSON, come from the environment."""

from __future__ import annotations

import json
import os

import pytest
import torch
import torch.distributed as dist

from pytest_elastic.controller.launcher import ElasticLaunch

SETTINGS = json.loads(os.environ["BENCH_LAUNCH"])


def all_reduce() -> int:
    dist.init_process_group("gloo")
    total = torch.tensor(dist.get_rank())
    dist.all_reduce(total)
    dist.destroy_process_group()
    return int(total)


@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_sum(number: int, elastic_launch: ElasticLaunch) -> None:
    assert elastic_launch(all_reduce, nproc=4, **SETTINGS) == dict.fromkeys(range(4), 6)
