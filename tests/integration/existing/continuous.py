"""torch's test case whose processes stay."""

import sys

import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import TEST_SKIPS, MultiProcContinuousTest


class TestStays(MultiProcContinuousTest):
    world_size = 2

    @classmethod
    def backend_str(cls):
        return "gloo"

    @classmethod
    def device_type(cls):
        return "cpu"

    def test_1_all_reduce(self):
        total = torch.tensor(self.rank)
        dist.all_reduce(total)
        self.assertEqual(total.item(), 1)

    def test_2_skips(self):
        sys.exit(TEST_SKIPS["generic"].exit_code)

    def test_3_fails(self):
        self.assertEqual(1, 2, msg="one is not two")

    def test_4_comes_after_a_failure(self):
        raise AssertionError("torch skips what comes after a failure")
