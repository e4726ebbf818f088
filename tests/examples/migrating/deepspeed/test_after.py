"""Averaging over ranks, and a checkpoint that another number of ranks loads, tested with the marker."""

import pytest
import torch
import torch.distributed as dist

import pytest_elastic


def average(tensor):
    dist.all_reduce(tensor)
    tensor /= dist.get_world_size()


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.elastic(backend="gloo", isolation="module")
class TestAverage:
    @pytest.mark.elastic(nproc=[1, 2])
    def test(self, rank, world_size, size):
        tensor = torch.full((size,), float(rank))
        average(tensor)
        assert tensor[0].item() == (world_size - 1) / 2

    @pytest.mark.elastic(nproc=2)
    def test_skip(self, world_size, size):
        if size > 1:
            pytest.skip("only one element is of interest")
        assert world_size == 2


def save(directory):
    dist.init_process_group("gloo")
    torch.save(torch.arange(4)[dist.get_rank() :: 2], directory / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


@pytest_elastic.controller_fixture
def saved_by_two(elastic_launch, tmp_path):
    elastic_launch(save, tmp_path, nproc=2)
    return tmp_path


@pytest.mark.elastic(nproc=1, backend="gloo")
def test_load(saved_by_two):
    parts = [torch.load(saved_by_two / f"{rank}.pt") for rank in range(2)]
    assert torch.stack(parts, dim=1).flatten().tolist() == [0, 1, 2, 3]
