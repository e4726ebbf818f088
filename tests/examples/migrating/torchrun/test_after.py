"""Run by ``pytest``: one pytest, which has ranks for the tests that want them."""

import pytest
import torch
import torch.distributed as dist

on_two_ranks = pytest.mark.elastic(nproc=2, backend="gloo", isolation="session")


@on_two_ranks
@pytest.mark.parametrize("size", [1, 1000])
def test_average(rank, size):
    tensor = torch.full((size,), float(rank))
    dist.all_reduce(tensor)
    assert tensor[0].item() == 1


@on_two_ranks
def test_save(rank, elastic_tmp_path):
    if rank == 0:
        torch.save(torch.arange(3), elastic_tmp_path / "counts.pt")
    dist.barrier()
    assert torch.load(elastic_tmp_path / "counts.pt").tolist() == [0, 1, 2]


def test_of_one_process():
    assert torch.arange(3).sum() == 3
