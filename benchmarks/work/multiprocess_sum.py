"""The measured work under torch's ``MultiProcessTestCase``, which spawns ranks for each test."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import MultiProcessTestCase


class TestSum(MultiProcessTestCase):
    @property
    def world_size(self) -> int:
        return int(os.environ["BENCH_RANKS"])

    def setUp(self) -> None:
        super().setUp()
        self._spawn_processes()

    def _sum(self) -> None:
        store = dist.FileStore(self.file_name, self.world_size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size)
        total = torch.tensor(self.rank)
        dist.all_reduce(total)
        assert total.item() == sum(range(self.world_size))
        dist.destroy_process_group()


for number in range(int(os.environ["BENCH_TESTS"])):
    setattr(TestSum, f"test_{number}", TestSum._sum)
