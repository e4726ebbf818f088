"""Has a module that registers a function with `atexit` when it is imported: it is called where it was registered."""

import atexit
import os

import pytest

HERE = os.getpid()


def clean_up():
    if os.getpid() != HERE:
        os._exit(9)


atexit.register(clean_up)


@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    pass
