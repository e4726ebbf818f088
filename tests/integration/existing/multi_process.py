"""A suite of ten tests as users of torch's own test case write them: some fail, are skipped, or lose a rank."""

import os
import signal
import sys
import unittest

import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import TEST_SKIPS, MultiProcessTestCase, skip_if_lt_x_gpu


class TestExisting(MultiProcessTestCase):
    @property
    def world_size(self):
        return int(os.environ.get("EXISTING_RANKS", "4"))

    def setUp(self):
        super().setUp()
        self._spawn_processes()

    def tearDown(self):
        super().tearDown()
        if os.path.exists(self.file_name):
            os.remove(self.file_name)

    def group(self):
        store = dist.FileStore(self.file_name, self.world_size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size)

    def test_all_reduce(self):
        self.group()
        total = torch.tensor(self.rank)
        dist.all_reduce(total)
        self.assertEqual(total.item(), sum(range(self.world_size)))

    def test_broadcast(self):
        self.group()
        value = torch.tensor(self.rank)
        dist.broadcast(value, 1)
        self.assertEqual(value.item(), 1)

    def test_all_gather(self):
        self.group()
        gathered = [torch.tensor(-1) for _ in range(self.world_size)]
        dist.all_gather(gathered, torch.tensor(self.rank))
        self.assertEqual([int(value) for value in gathered], list(range(self.world_size)))

    def test_threads_of_torch(self):
        self.group()
        product = torch.ones(200, 200) @ torch.ones(200, 200)
        dist.all_reduce(product)
        self.assertEqual(product[0, 0].item(), 200 * self.world_size)

    def test_fails_on_one_rank(self):
        self.group()
        dist.barrier()
        if self.rank == 1:
            self.assertEqual(1, 2, msg="one is not two")

    def test_skips_by_exception(self):
        raise unittest.SkipTest("not today")

    def test_skips_by_exit_code(self):
        sys.exit(TEST_SKIPS["small_worldsize"].exit_code)

    @skip_if_lt_x_gpu(8)
    def test_skips_for_want_of_devices(self):
        pass

    def test_first_rank_is_killed(self):
        if self.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def test_first_rank_exits(self):
        if self.rank == 0:
            os._exit(3)
