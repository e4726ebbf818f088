"""pytest itself is ended while a rank blocks and has a child."""

import os
import subprocess
import threading
from pathlib import Path

import pytest


def test_before():
    pass


@pytest.mark.elastic(nproc=2, timeout=100)
def test_it(rank):
    child = subprocess.Popen(["sleep", "1000"])
    Path(os.environ["CONFORMANCE_RECORD"], f"rank{rank}.pids").write_text(f"{os.getpid()} {child.pid}")
    threading.Event().wait()


def test_after():
    pass
