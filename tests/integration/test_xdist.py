"""pytest-xdist: each worker is a controller of its own, and what it does is what one process would have done."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

MIXED = Path(__file__).with_name("mixed")
DEADLINE = 30.0
TIMES = int(os.environ.get("MIXED_TIMES", "1"))
"""How often the 40 tests run on several workers."""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args, timeout=200)


def outcomes(result: pytest.RunResult) -> list[str]:
    """Return how each test ended and why, in the words of the short summary."""
    lines = re.findall(r"^(?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) .*$", result.stdout.str(), re.MULTILINE)
    return sorted(lines)


def clashes(entries: list[dict[str, Any]], what: str) -> list[str]:
    """Return what two tests had at the same time."""
    return [
        f"{one['test']} and {other['test']}: {both}"
        for number, one in enumerate(entries)
        for other in entries[number + 1 :]
        if one["begin"] < other["end"] and other["begin"] < one["end"]
        if (both := set(one.get(what, [])) & set(other.get(what, [])))
    ]


def expected() -> list[str]:
    """Return the lines of the short summary that one process gives; four skips at one place are one line."""
    sizes = range(1, 5)
    good = [f"{name}[{n}]" for name in ("reduces", "listens", "has_devices", "is_kept") for n in sizes]
    good += [f"nodes[{n}-{nnodes}]" for n in range(2) for nnodes in (1, 2)]
    lines = [f"PASSED test_sizes.py::test_{name}" for name in good]
    lines += [f"PASSED test_launches.py::test_launches[{n}]" for n in (1, 2, 4)]
    lines += [f"XFAIL test_sizes.py::test_is_expected_to_fail[{n}]" for n in sizes]
    failed = [(f"fails_on_the_last[{n}]", f"[rank {n - 1}] assert {n - 1} != ({n} - 1)") for n in sizes]
    failed += [(f"is_killed[{n}]", "[rank 0] killed by SIGKILL") for n in sizes]
    failed += [("hangs[3]", "timed out after 2 s: test_hangs[3]")]
    lines += [f"FAILED test_sizes.py::test_{name} - {why}" for name, why in failed]
    return sorted(lines)


@pytest.mark.soak  # `make soak` does it 20 times
def test_forty_tests_of_mixed_sizes_end_as_in_one_process(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, there in (("machine", "conftest"), ("sizes", "test_sizes"), ("launches", "test_launches")):
        shutil.copy(MIXED / f"{name}.py", pytester.path / f"{there}.py")
    monkeypatch.setenv("COLUMNS", "200")
    found = []
    log = pytester.path / "log"
    monkeypatch.setenv("MIXED_LOG", str(log))
    for workers in (*["0"] * (TIMES > 1), *["4"] * TIMES):
        log.unlink(missing_ok=True)
        result = run(pytester, f"-n{workers}", "-rA")
        lines = outcomes(result)
        skipped = [line for line in lines if line.startswith("SKIPPED")]
        assert [re.sub(r"\d+: ", "", line) for line in skipped] == ["SKIPPED [4] test_sizes.py:never here"]
        found.append([line for line in lines if line not in skipped])
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        given = [port for entry in entries for port in entry.get("given", [])]
        assert len(entries) == 16
        assert len(given) == len(set(given)) == 4
        assert clashes(entries, "ports") == clashes(entries, "devices") == []
    assert found == [expected()] * len(found)


def await_true(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ranks_of(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()]


def test_a_killed_worker_leaves_no_rank_and_another_takes_its_place(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
import os, signal, threading
from pathlib import Path
import pytest

def block():
    with open("pids", "a") as file: file.write(f"{os.getpid()}\\n")
    print("here", flush=True)
    threading.Event().wait()

def test_crashes(elastic_launch):
    run = elastic_launch.start(block, nproc=2, timeout=60)
    for rank in range(2): run.wait_for_output("here", rank=rank)
    os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.elastic(timeout=60)
@pytest.mark.parametrize("nproc", [1, 2, 3, 4])
def test_ranks(rank, nproc): pass
"""
    )
    result = run(pytester, "-n1", "--max-worker-restart=1")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines("*worker 'gw0' crashed while running 'test_it.py::test_crashes'*")
    pids = ranks_of(pytester.path / "pids")
    assert len(pids) == 2
    await_true(lambda: not any(psutil.pid_exists(pid) for pid in pids))


OTHER_WAYS = ("loadscope", "loadfile", "loadgroup", "worksteal", "each")


@pytest.mark.parametrize(
    ("dist", "maxfail"), [("load", 1), *(pytest.param(way, 0, marks=pytest.mark.soak) for way in OTHER_WAYS)]
)
def test_ways_to_distribute_and_maxfail(pytester: pytest.Pytester, dist: str, maxfail: int) -> None:
    source = """
import pytest
@pytest.mark.xdist_group("together")
@pytest.mark.elastic(nproc=2, timeout=60)
@pytest.mark.parametrize("n", range(12))
def test_ranks(rank, worker_id, n):
    assert worker_id in ("gw0", "gw1")
    assert n != 0 or rank != 1
"""
    pytester.makepyfile(test_a=source, test_b=source)
    result = run(pytester, "-nauto", "--maxprocesses=2", f"--dist={dist}", f"--maxfail={maxfail}")
    count = result.parseoutcomes()
    result.stdout.fnmatch_lines("FAILED test_[ab].py::test_ranks[[]0[]]* - [[]rank 1[]] assert*")
    if maxfail:
        assert count["failed"] + count.get("passed", 0) < 24
        result.stdout.fnmatch_lines("*stopping after 1 failures*")
    else:
        times = 2 if dist == "each" else 1
        assert (count["failed"], count["passed"]) == (2 * times, 22 * times)
