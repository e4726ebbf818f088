"""The measured work under mpi-pytest, which runs each test in a pytest of its own on each rank."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
from mpi4py import MPI

RANKS = int(os.environ["BENCH_RANKS"])


@pytest.mark.parallel(RANKS)
@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_sum(number: int) -> None:
    world = MPI.COMM_WORLD
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if world.rank == 0 else None
    port = world.bcast(store.port if store is not None else None)
    if store is None:
        store = dist.TCPStore("127.0.0.1", port)
    dist.init_process_group("gloo", store=store, rank=world.rank, world_size=world.size)
    total = torch.tensor(world.rank)
    dist.all_reduce(total)
    assert total.item() == sum(range(RANKS))
    dist.destroy_process_group()
