"""Leaves a child of `multiprocessing` behind."""

import multiprocessing
import threading

import pytest


def block():
    threading.Event().wait()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 thinks ill of forks
@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    if rank == 1:
        multiprocessing.get_context("fork").Process(target=block, name="forgotten").start()
