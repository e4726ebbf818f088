"""A rank fails while the others wait for it in a collective. Tells when; gate.py adds when the verdict came."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist


@pytest.mark.elastic(nproc=4, backend="gloo")
@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_fails(number: int, rank: int) -> None:
    dist.all_reduce(torch.tensor(rank))
    if rank == 2:
        _stamp()
        assert rank == 0
    dist.all_reduce(torch.tensor(rank))


def _stamp() -> None:
    with open(os.environ["BENCH_STAMPS"], "a") as stamps:
        stamps.write(f"{time.monotonic()}\n")
