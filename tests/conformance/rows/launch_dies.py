"""A launched function dies of SIGSEGV."""

import ctypes
import os


def train():
    if os.environ["RANK"] == "1":
        ctypes.string_at(0)


def test_it(elastic_launch):
    elastic_launch(train, nproc=2, timeout=60)
