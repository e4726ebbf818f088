"""The same as a unittest: half of the way, for a suite with many of them."""

import unittest

import pytest
import torch
import torch.distributed as dist


def average(tensor):
    dist.all_reduce(tensor)
    tensor /= dist.get_world_size()


@pytest.mark.elastic(nproc=2, backend="gloo")
class TestAverage(unittest.TestCase):
    def setUp(self):
        self.rank = dist.get_rank()

    def test_average(self):
        for size in (1, 1000):
            with self.subTest(size=size):
                tensor = torch.full((size,), float(self.rank))
                average(tensor)
                self.assertTrue(torch.equal(tensor, torch.full((size,), 0.5)))
