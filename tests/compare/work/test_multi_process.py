"""torch's ``MultiProcessTestCase``, as torch's own tests use it; its time limit is an environment variable."""

import unittest
from datetime import timedelta

import doing
import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import MultiProcessTestCase

doing.when_imported(in_rank=doing.is_child())


def skip(reason):
    raise unittest.SkipTest(reason)


class TestIt(MultiProcessTestCase):
    @property
    def world_size(self):
        return 2

    def setUp(self):
        super().setUp()
        self._spawn_processes()

    def test_it(self):
        store = dist.FileStore(self.file_name, self.world_size)
        limit = timedelta(seconds=doing.OWN_LIMIT)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size, timeout=limit)
        doing.act(self.rank, dist.barrier, lambda: dist.all_reduce(torch.ones(1)), skip)
