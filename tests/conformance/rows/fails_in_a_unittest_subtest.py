"""Fails in a subtest of `unittest`."""

import os
import unittest

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
class TestIt(unittest.TestCase):
    def test_it(self):
        for batch in range(3):
            with self.subTest(batch=batch):
                self.assertNotEqual((os.environ["RANK"], batch), ("1", 1))
