"""The measured work under torch's ``MultiProcContinuousTest``, which spawns ranks for each class."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import MultiProcContinuousTest


class TestSum(MultiProcContinuousTest):
    world_size = int(os.environ["BENCH_RANKS"])

    @classmethod
    def backend_str(cls) -> str:
        return "gloo"

    @classmethod
    def device_type(cls) -> str:
        return "cpu"

    def _sum(self) -> None:
        total = torch.tensor(self.rank)
        dist.all_reduce(total)
        assert total.item() == sum(range(self.world_size))


for number in range(int(os.environ["BENCH_TESTS"])):
    setattr(TestSum, f"test_{number}", TestSum._sum)
