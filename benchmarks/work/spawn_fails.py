"""The same under torch's own ``elastic_launch``: the verdict is the exception that it raises."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from spawn_sum import launch


def fails() -> None:
    dist.init_process_group("gloo")
    dist.all_reduce(torch.tensor(dist.get_rank()))
    if dist.get_rank() == 2:
        _stamp()
        raise AssertionError("rank 2")
    dist.all_reduce(torch.tensor(dist.get_rank()))


@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_fails(number: int) -> None:
    with pytest.raises(ChildFailedError):
        launch(fails)
    _stamp()


def _stamp() -> None:
    with open(os.environ["BENCH_STAMPS"], "a") as stamps:
        stamps.write(f"{time.monotonic()}\n")
