"""Averaging over ranks, and a checkpoint that another number of ranks loads, tested with DeepSpeed's classes."""

import deepspeed.comm as dist
import pytest
import torch
from unit.common import DistributedFixture, DistributedTest


def average(tensor):
    dist.all_reduce(tensor)
    tensor /= dist.get_world_size()


@pytest.mark.parametrize("size", [1, 1000])
class TestAverage(DistributedTest):
    world_size = [1, 2]

    def test(self, size):
        tensor = torch.full((size,), float(dist.get_rank()))
        average(tensor)
        assert tensor[0].item() == (dist.get_world_size() - 1) / 2

    @pytest.mark.world_size(2)
    def test_skip(self, size):
        if size > 1:
            pytest.skip("only one element is of interest")
        assert dist.get_world_size() == 2


class saved_by_two(DistributedFixture):  # noqa: N801 - the name of the class is that of the fixture
    world_size = 2

    def run(self, class_tmpdir):
        torch.save(torch.arange(4)[dist.get_rank() :: 2], class_tmpdir.join(f"{dist.get_rank()}.pt"))


class TestLoad(DistributedTest):
    world_size = 1

    def test(self, saved_by_two, class_tmpdir):
        parts = [torch.load(class_tmpdir.join(f"{rank}.pt")) for rank in range(2)]
        assert torch.stack(parts, dim=1).flatten().tolist() == [0, 1, 2, 3]
