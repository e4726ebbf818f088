"""Averaging over ranks, tested with the marker."""

import pytest
import torch
import torch.distributed as dist


def average(tensor):
    dist.all_reduce(tensor)
    tensor /= dist.get_world_size()


@pytest.mark.elastic(nproc=2, backend="gloo")
@pytest.mark.parametrize("size", [1, 1000])
def test_average(rank, size):
    tensor = torch.full((size,), float(rank))
    average(tensor)
    torch.testing.assert_close(tensor, torch.full((size,), 0.5))


@pytest.mark.elastic(nproc=2, backend="nccl", device="cuda")
def test_average_on_gpus(rank, device):
    tensor = torch.tensor(float(rank), device=device)
    average(tensor)
    assert tensor.item() == 0.5
