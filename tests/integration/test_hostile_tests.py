"""Tests that take from under the plugin what it stands on: they get the verdict that they would get without it."""

from __future__ import annotations

import re
import tempfile

import pytest

SOURCE = """
import atexit, glob, os, shutil, sys, time
import pytest

elastic = pytest.mark.elastic(nproc=2, timeout=60)

class CallsExit(Exception):
    def __init__(self, *args, code=0):
        super().__init__(*args)
        self.code = code
    def __reduce__(self):
        return sys.exit, (self.code,)

class NoFlush:
    def write(self, text): return len(text)
    def flush(self): raise OSError("no flush")

@pytest.fixture
def other_pid(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 42)

@elastic
def test_skips_with_another_pid(rank, other_pid): pytest.skip("no data")

@elastic
def test_disagrees_with_another_pid(rank, other_pid):
    if rank: pytest.skip("no data")

@elastic
def test_fails_with_another_pid(rank, other_pid): assert not rank, "mine"

@elastic
def test_raises_what_calls_exit(rank):
    if rank: raise CallsExit("mine")

@elastic
def test_leaves_a_stream_that_cannot_be_flushed(rank): sys.stdout = NoFlush()

@pytest.mark.elastic(nproc=2, timeout=3)
def test_hangs_in_its_end(rank):
    if rank: atexit.register(time.sleep, 1000)

@pytest.mark.elastic(nproc=2, timeout=60, isolation="module")
class TestKept:
    def test_forks_and_both_go_on(self, rank):
        if rank: os.fork()
    def test_after_it(self, rank): pass

def raises():
    os.getpid = lambda: 42
    if os.environ["RANK"] == "1": raise CallsExit("mine")

def returns(): return CallsExit(code=3)

def leaves_a_stream(): sys.stdout = NoFlush()

def test_launch_raises(elastic_launch): elastic_launch(raises, timeout=60)
def test_launch_returns(elastic_launch): elastic_launch(returns, timeout=60)
def test_launch_leaves_a_stream(elastic_launch): assert elastic_launch(leaves_a_stream) == {0: None, 1: None}

def test_launch_exits(elastic_launch, tmp_path):
    script = tmp_path / "exits.py"
    script.write_text("import sys; sys.exit(10**30)")
    elastic_launch(script, nproc=1, timeout=60)

# The last ones: the run's directory is gone.
@elastic
def test_removes_the_directory_of_the_run(rank):
    if rank:
        assert glob.glob(os.environ["TMPDIR"] + "/elastic-*")
        while directories := glob.glob(os.environ["TMPDIR"] + "/elastic-*"):
            shutil.rmtree(directories[0], True)
    assert not rank, "mine"

@elastic
def test_without_the_directory_of_the_run(rank): pass
"""
EXPECTED = r"""
FAILED test_it\.py::test_disagrees_with_another_pid - the ranks disagree: rank 1 skipped: no data; rank 0 passed
FAILED test_it\.py::test_fails_with_another_pid - \[rank 1\] AssertionError: mine
FAILED test_it\.py::test_raises_what_calls_exit - \[rank 1\] test_it\.CallsExit: mine
FAILED test_it\.py::test_launch_raises - pytest_elastic\.\S+WorkerFailedError: \[rank 1\] CallsExit: mine
FAILED test_it\.py::test_launch_returns - .*\[rank 0\] returned a value that cannot be read here: SystemExit: 3
FAILED test_it\.py::test_launch_exits - .*\[rank 0\] exited with code 255 before the script ended
FAILED test_it\.py::test_removes_the_directory_of_the_run - \[rank 1\] AssertionError: mine
ERROR test_it\.py::test_hangs_in_its_end - timed out after 3 s: test_hangs_in_its_end
ERROR test_it\.py::test_without_the_directory_of_the_run - Failed: cannot make .*, has been removed\)
"""


def test_verdicts(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_it=SOURCE)
    monkeypatch.setenv("COLUMNS", "1000")
    # Of its own, since all runs in it are removed, and short, as a run wants it for its sockets.
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("TMPDIR", directory)
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--tb=short")
    result.assert_outcomes(passed=6, skipped=1, failed=7, errors=2)
    lines = [line for line in result.outlines if line.startswith(("FAILED", "ERROR "))]
    for line, pattern in zip(lines, EXPECTED.split("\n")[1:-1], strict=True):
        assert re.match(pattern, line)
    assert result.outlines.count("rank 0: finished") == 1
    assert result.outlines.count("rank 1: finished, but its process did not end") == 1
