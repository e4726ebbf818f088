"""Ctrl-C in a plain test, after a launch."""

import os
import threading
from pathlib import Path

import pytest


@pytest.mark.elastic(nproc=2, timeout=60)
def test_before(rank):
    pass


def test_it():
    Path(os.environ["CONFORMANCE_RECORD"], "rank0.pids").write_text(f"{os.getpid()}")
    threading.Event().wait()


def test_after():
    pass
