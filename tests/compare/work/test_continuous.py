"""torch's ``MultiProcContinuousTest``, as torch's own tests use it; its time limit is an environment variable."""

import sys
from datetime import timedelta

import doing
import torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import TEST_SKIPS, MultiProcContinuousTest

doing.when_imported(in_rank=doing.is_child())


def skip(reason):
    # As torch's own decorators do; it takes `unittest.SkipTest` for a failure.
    print(reason)
    sys.exit(TEST_SKIPS["generic"].exit_code)


class TestIt(MultiProcContinuousTest):
    world_size = 2
    timeout = timedelta(seconds=doing.OWN_LIMIT)

    @classmethod
    def backend_str(cls):
        return "gloo"

    @classmethod
    def device_type(cls):
        return "cpu"

    def test_it(self):
        doing.act(self.rank, dist.barrier, lambda: dist.all_reduce(torch.ones(1)), skip)
