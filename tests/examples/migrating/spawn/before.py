"""Averaging over ranks, tested with a helper of the project around ``torch.multiprocessing.spawn``."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _worker(rank, world_size, port, function, args, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        results.put((rank, function(*args)))
    finally:
        dist.destroy_process_group()


def run_distributed(function, world_size, *args):
    """Call the function on many ranks, and return what it returned on each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]  # closed before rank 0 listens: another process may take it
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_worker, (world_size, port, function, args, results), nprocs=world_size)
    return dict(results.get() for _ in range(world_size))


def average_of_rank(size):
    tensor = torch.full((size,), float(dist.get_rank()))
    dist.all_reduce(tensor)
    return tensor[0].item() / dist.get_world_size()


@pytest.mark.parametrize("size", [1, 1000])
def test_average(size):
    assert run_distributed(average_of_rank, 2, size) == {0: 0.5, 1: 0.5}


def refuse_on_rank_1():
    if dist.get_rank() == 1:
        raise ValueError("rank 1 has no data")
    # A collective here would fail as well, and mp.spawn raises what it sees first: mostly that.


def test_a_rank_without_data():
    with pytest.raises(mp.ProcessRaisedException, match="rank 1 has no data"):
        run_distributed(refuse_on_rank_1, 2)
