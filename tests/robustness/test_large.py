"""Output, values, tracebacks and names that are larger than anybody expects."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from .sessions import AS_EVER, TESTS, run_session

FLOOD = """
import os, time, pytest
RATE, SECONDS = 20_000_000, 3
def floods():
    line, written, begin = b"x" * 99 + b"\\n", 0, time.monotonic()
    while (passed := time.monotonic() - begin) < SECONDS:
        while written < RATE * passed:
            written += os.write(1, line * 2000)
        time.sleep(0.005)
    return written
def test_function(elastic_launch):
    result = elastic_launch(floods, nproc=4, timeout=120)
    assert min(result.values()) >= 0.9 * RATE * SECONDS
    assert {rank: len(text) for rank, text in result.stdout.items()} == result
@pytest.mark.elastic(nproc=4, timeout=120)
def test_marked(rank):
    floods()
    assert rank != 2, "the floods are over"
@pytest.mark.elastic(nproc=4, timeout=5)
def test_deadline(rank):
    while True: os.write(1, b"y" * 99999 + b"\\n"); time.sleep(0.005)
def test_plain(): pass
"""


@pytest.mark.soak
@pytest.mark.parametrize("option", ["--capture=fd", "-s"])
def test_20_mb_of_output_a_second_from_each_rank(tmp_path: Path, option: str) -> None:
    outcome = run_session(tmp_path, option, tests=FLOOD)
    expected = {"test_function": "passed", "test_marked": "failed", "test_deadline": "failed", "test_plain": "passed"}
    assert outcome.verdicts == expected, outcome.output[-5000:]
    assert "[rank 2]" in outcome.output
    assert "the floods are over" in outcome.texts["test_marked"]
    assert "timed out after 5 s" in outcome.texts["test_deadline"]
    assert option == "-s" or len(outcome.output) < 1_000_000  # the end of a rank's output is shown, not all of it
    outcome.assert_nothing_is_left()


GIGABYTES = """
SIZE = 1 << 30
def returns(size): return bytes(size)
def test_two_of_them(elastic_launch):
    result = elastic_launch(returns, SIZE, nproc=2, timeout=300)
    assert [len(result[rank]) for rank in (0, 1)] == [SIZE, SIZE]
def test_after(elastic_launch): assert elastic_launch(returns, 1, nproc=2, timeout=60) == {0: bytes(1), 1: bytes(1)}
"""


@pytest.mark.soak
def test_values_of_a_gigabyte(tmp_path: Path) -> None:
    if psutil.virtual_memory().available < 12 << 30:
        pytest.skip("two values of 1 GB, in the ranks and in pytest, need 12 GB of memory")
    outcome = run_session(tmp_path, tests=GIGABYTES)
    assert set(outcome.verdicts.values()) == {"passed"}, outcome.output
    assert len(outcome.verdicts) == 2
    outcome.assert_nothing_is_left()


TRACEBACKS = """
import sys, pytest
def fails(depth, lines):
    if depth == 0: raise ValueError("\\n".join(f"line {number}" for number in range(lines)))
    fails(depth - 1, lines)
@pytest.mark.elastic(nproc=2, timeout=120)
def test_message(rank): fails(0, 10_000)
@pytest.mark.elastic(nproc=2, timeout=120)
def test_depth(rank):
    sys.setrecursionlimit(20_000)
    fails(10_000, 1)
def test_launch(elastic_launch): elastic_launch(fails, 100, 10_000, nproc=2, timeout=120)
def test_recursion(elastic_launch): elastic_launch(fails, 100_000, 1, nproc=2, timeout=120)
def test_plain(): pass
"""


@pytest.mark.soak
def test_tracebacks_of_10000_lines(tmp_path: Path) -> None:
    outcome = run_session(tmp_path, tests=TRACEBACKS)
    verdicts = dict.fromkeys(["test_message", "test_depth", "test_launch", "test_recursion"], "failed")
    assert outcome.verdicts == {**verdicts, "test_plain": "passed"}, outcome.output[-5000:]
    assert "line 9999" in outcome.texts["test_message"]
    assert "ValueError: line 0" in outcome.texts["test_depth"]
    assert "ValueError: line 0" in outcome.texts["test_launch"]
    assert "RecursionError" in outcome.texts["test_recursion"]
    outcome.assert_nothing_is_left()


NAMES = (
    TESTS
    + """
@pytest.mark.elastic(nproc=2, timeout=60)
@pytest.mark.parametrize("text", ["a" * 300, "b/c \\u00e9" * 80, "tab\\tand\\nline"])
def test_long(rank, text, tmp_path, elastic_tmp_path): assert tmp_path.is_dir() and elastic_tmp_path.is_dir()
def test_script(elastic_launch, tmp_path):
    script = tmp_path / "ein Skript \\u00e9.py"
    script.write_text("print('done')")
    for method in ("forkserver", "spawn"):
        assert elastic_launch(script, nproc=1, timeout=60, start_method=method).stdout == {0: "done\\n"}
def test_etcd(etcd_server): assert etcd_server.alive
"""
)


@pytest.mark.soak
def test_directories_and_ids_with_long_names_spaces_and_unicode(tmp_path: Path) -> None:
    """Also for what is put there: the logs and, unless a socket's path would be too long, temporary files."""
    directory = tmp_path / "with space" / "ünïcödé 日本" / ("x" * 255)
    assert len(str(directory)) > 300
    outcome = run_session(
        directory, "--elastic-log-dir=logs é", tests=NAMES, file="test_ünï code.py", environ={"TMPDIR": str(directory)}
    )
    failed = {test: verdict for test, verdict in outcome.verdicts.items() if verdict != "passed"}
    assert failed == {"test_fails": "failed"}, outcome.output
    assert len(outcome.verdicts) == len(AS_EVER) + 5
    assert len(os.listdir(directory / "logs é")) >= 6
    outcome.assert_nothing_is_left()
    assert not [path.name for path in directory.iterdir() if path.name.startswith("elastic-")]
