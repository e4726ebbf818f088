"""Averaging over ranks, tested with torch's own test case."""

import os

import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import MultiProcessTestCase, skip_if_lt_x_gpu
from torch.testing._internal.common_utils import instantiate_parametrized_tests, parametrize


def average(tensor):
    dist.all_reduce(tensor)
    tensor /= dist.get_world_size()


class TestAverage(MultiProcessTestCase):
    @property
    def world_size(self):
        return 2

    def setUp(self):
        super().setUp()
        self._spawn_processes()

    def tearDown(self):
        super().tearDown()
        if os.path.exists(self.file_name):
            os.remove(self.file_name)

    def init_group(self, backend="gloo"):
        store = dist.FileStore(self.file_name, self.world_size)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world_size)

    @parametrize("size", [1, 1000])
    def test_average(self, size):
        self.init_group()
        tensor = torch.full((size,), float(self.rank))
        average(tensor)
        self.assertEqual(tensor, torch.full((size,), 0.5))

    @skip_if_lt_x_gpu(2)
    def test_average_on_gpus(self):
        self.init_group("nccl")
        tensor = torch.tensor(float(self.rank), device=f"cuda:{self.rank}")
        average(tensor)
        self.assertEqual(tensor.item(), 0.5)


instantiate_parametrized_tests(TestAverage)
