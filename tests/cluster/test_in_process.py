"""What is left in a process that was a controller of several sessions: nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .controllers import DEADLINE

ROOT = Path(__file__).parents[2]
TEXT = """
import pytest

@pytest.mark.elastic(nnodes=2, nproc=1, timeout=60)
def test_passes(rank):
    pass

@pytest.mark.elastic(nnodes=2, nproc=1, timeout=60)
def test_fails(rank):
    assert rank == 0
"""


@pytest.mark.soak
@pytest.mark.parametrize("rank", [0, 1])
def test_nothing_is_left_in_a_process_that_runs_sessions(place: Path, rank: int) -> None:
    (place / "test_it.py").write_text(TEXT)
    (place / "tmp").mkdir()
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(place / "tmp"),
        "PYTEST_ELASTIC_KEY": "the key of this one test",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.in_process", f"{rank}"],
        cwd=place,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["codes"] == [[1, 1]] * 3, done.stdout + done.stderr
    assert told["after"] == told["before"]
