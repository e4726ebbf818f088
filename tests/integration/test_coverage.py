"""One result of coverage, with what was executed on ranks only: by pytest-cov and ``coverage run``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import coverage
import pytest

from tests.conftest import OTHERS

COVERED = """
def marked(rank):
    if rank == 1:
        return "on rank 1 only"
    return "on rank 0"

def torn_down():
    return "in the teardown of a fixture"

def failing(rank):
    if rank == 1:
        raise RuntimeError("on purpose")
    return "the other rank"

def kept(last):
    if last:
        return "the second test of the same ranks"
    return "the first"

def kept_until_the_end():
    return "in the teardown of ranks that were kept"

def launched(rank):
    if rank == "1":
        return "one"
    return "another"

def killed():
    return "before it was killed"

def exits(rank):
    if rank == "1":
        sys.exit(3)
    return "goes on"

def script(rank):
    if rank == "1":
        return "a script's rank 1"
    return "and rank 0"

def spawned():
    return "in a fresh interpreter"

def by_a_child():
    return "in a process that a rank started"

def in_controller():
    return "in pytest itself"

def not_wanted():
    return "in a test that is not to be measured"  # never

def nowhere(value):
    if value:
        return "at no time"  # never
    return "always"

import sys
nowhere(0)
"""

SCRIPT = """
import os
import covered

covered.script(os.environ["RANK"])
if os.environ["RANK"] == "2":
    print("there is none")  # never
"""

HEAD = """
import os, subprocess, sys, threading
import pytest
import covered

pytestmark = pytest.mark.filterwarnings("error")
"""

SUITE = {
    "test_ranks": HEAD
    + """
@pytest.fixture
def torn_down(rank):
    yield
    covered.torn_down()

@pytest.mark.elastic(nproc=2, timeout=60)
def test_marked(rank, torn_down):
    covered.marked(rank)
    # What saves now and then is not to be noticed.
    before = os.listdir("/proc/self/task")
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(os.listdir("/proc/self/task")) == len(before)
    assert threading.active_count() == 1

@pytest.mark.xfail(strict=True, raises=RuntimeError)
@pytest.mark.elastic(nproc=2, timeout=60)
def test_failing(rank): covered.failing(rank)

@pytest.mark.no_cover
@pytest.mark.elastic(nproc=1, timeout=60)
def test_not_measured(rank): covered.not_wanted()
""",
    "test_launches": HEAD
    + """
import time
from pathlib import Path
import coverage
from pytest_elastic import kernel
from pytest_elastic.controller.holding import run_of

def was_executed(text, files):
    lines = Path("covered.py").read_text().splitlines()
    [line] = [number for number, each in enumerate(lines, start=1) if text in each]
    for file in files:
        data = coverage.CoverageData(no_disk=True)
        data.loads(file.read_bytes())
        executed = line in (data.lines(os.path.abspath("covered.py")) or data.lines("covered.py") or ())
        data.close(force=True)
        return executed

def launched(): return covered.launched(os.environ["RANK"])
def exits(): return covered.exits(os.environ["RANK"])
def is_killed():
    covered.killed()
    read, write = os.pipe()
    os.read(read, 1)

def test_launched(elastic_launch):
    covered.in_controller()
    assert elastic_launch(launched, nproc=2, timeout=60) == {0: "another", 1: "one"}

def test_exits(elastic_launch):
    assert elastic_launch(exits, nproc=2, timeout=60, check=False).exitcodes[1] == 3

def test_killed(elastic_launch, request):
    files = run_of(request.config).directory / "coverage"
    deadline = time.monotonic() + 30
    with elastic_launch.start(is_killed, nproc=1, timeout=60) as run:
        run.wait_for_world(1, timeout=30)
        pid = run.ranks[0].pid
        while not was_executed("before it was killed", files.glob(f"*.{pid}.data")):
            assert time.monotonic() < deadline
            kernel.pause(0.01)
        run.kill(rank=0)
        assert run.wait(check=False).exitcodes == {0: -9}

def test_script(elastic_launch): elastic_launch("script.py", nproc=2, timeout=60)
""",
    "test_spawned": HEAD
    + """
@pytest.mark.elastic(nproc=1, timeout=60, start_method="spawn")
def test_spawned(rank): covered.spawned()

@pytest.mark.elastic(nproc=1, timeout=60)
def test_child(rank): subprocess.run([sys.executable, "-c", "import covered; covered.by_a_child()"], check=True)
""",
    # The last file: one of its tests fails.
    "test_the_last": HEAD
    + """
@pytest.fixture(scope="module")
def kept(rank):
    yield
    covered.kept_until_the_end()

@pytest.mark.elastic(nproc=2, timeout=60, isolation="module")
def test_first(rank, kept): covered.kept(last=False)

@pytest.mark.elastic(nproc=2, timeout=60, isolation="module")
def test_second(rank, kept): covered.kept(last=True)

def test_plain(): assert "FAIL" not in os.environ

@pytest.mark.elastic(nproc=2, timeout=60, isolation="module")
def test_third(rank, kept): pass
""",
}


def never(source: str, *functions: str) -> set[int]:
    """Return the lines that nobody is to execute: those marked, and the bodies of some functions."""
    found, inside = set(), ""
    for number, line in enumerate(source.strip().splitlines(), start=1):
        if line.startswith("def "):
            inside = line[4:].partition("(")[0]
        elif not line.startswith(" "):
            inside = ""
        if line.startswith(" ") and (line.endswith("# never") or inside in functions):
            found.add(number)
    return found


def check(file: Path, *unused: str) -> dict[str, Any]:
    """Compare a report of coverage's with what is to be executed, line by line and branch by branch."""
    told: dict[str, Any] = json.loads(file.read_text())["files"]
    assert sorted(told) == ["covered.py", "script.py"]
    for name, source in (("covered.py", COVERED), ("script.py", SCRIPT)):
        missing = never(source, *unused)
        assert set(told[name]["missing_lines"]) == missing
        # One branch of each module leads to a line that nobody executes; all others are taken.
        [branch] = told[name]["missing_branches"]
        assert branch[1] in missing
    return told


def data_files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob(".coverage*") if path.name != ".coveragerc")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The files, in a session that has pytest-cov."""
    others = (f"-p no:{name}" for name in (*OTHERS, "hypothesispytest") if name != "pytest_cov")
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(others))
    pytester.makepyfile(covered=COVERED, script=SCRIPT, **SUITE)
    return pytester


FILES = ("test_ranks.py", "test_launches.py", "test_the_last.py")
UNUSED_BY_THEM = ("spawned", "by_a_child")
COV = ("--cov=covered", "--cov=script", "--cov-branch", "--cov-report=json:told.json")


def test_pytest_cov(suite: pytest.Pytester) -> None:
    """Each line has the contexts that it would have in a plain test; nothing is warned of, nothing left behind."""
    suite.makefile("", **{".coveragerc": "[run]\nrelative_files = true\n[json]\nshow_contexts = true\n"})
    result = suite.runpytest_subprocess("-p", "no:xdist", *COV, "--cov-context=test", *FILES)
    result.assert_outcomes(passed=10, xfailed=1)
    assert "CoverageWarning" not in result.stdout.str() + result.stderr.str()
    assert data_files(suite.path) == [".coverage"]
    contexts = check(suite.path / "told.json", *UNUSED_BY_THEM)["covered.py"]["contexts"]
    for text, expected in {
        "on rank 1 only": ["test_ranks.py::test_marked|run"],
        "in the teardown of a fixture": ["test_ranks.py::test_marked|teardown"],
        "on purpose": ["test_ranks.py::test_failing|run"],
        "the second test": ["test_the_last.py::test_second|run"],
        '"one"': ["test_launches.py::test_launched|run"],
        "a script's rank 1": ["test_launches.py::test_script|run"],
        "in pytest itself": ["test_launches.py::test_launched|run"],
    }.items():
        assert contexts[str(line_of(text))] == expected


def line_of(text: str) -> int:
    [number] = [number for number, line in enumerate(COVERED.strip().splitlines(), start=1) if text in line]
    return number


@pytest.mark.soak
def test_pytest_cov_with_xdist(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("-n", "2", "--dist", "loadfile", *COV, *FILES)
    result.assert_outcomes(passed=10, xfailed=1)
    assert "CoverageWarning" not in result.stdout.str() + result.stderr.str()
    assert data_files(suite.path) == [".coverage"]
    check(suite.path / "told.json", *UNUSED_BY_THEM)


@pytest.mark.soak
def test_coverage_run(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where tests stop early, and where coverage measures subprocesses: a rank's own, and no rank twice."""
    monkeypatch.setenv("FAIL", "1")
    suite.makefile("", **{".coveragerc": "[run]\nbranch = true\npatch = subprocess\nsource_pkgs = covered, script\n"})
    command = (sys.executable, "-m", "coverage", "run", "-m", "pytest", "-x", "-p", "no:xdist", "-p", "no:pytest_cov")
    # The mark is pytest-cov's.
    result = suite.run(*command, "-m", "not no_cover", *FILES[:2], "test_spawned.py", FILES[2])
    result.assert_outcomes(passed=9, xfailed=1, failed=1, deselected=1)
    assert "CoverageWarning" not in result.stdout.str() + result.stderr.str()
    # That of pytest, and that of the process which a rank has started.
    assert len(data_files(suite.path)) == 2
    whole = coverage.Coverage(config_file=".coveragerc")
    whole.combine()
    whole.save()
    assert data_files(suite.path) == [".coverage"]
    whole.json_report(outfile="told.json")
    check(suite.path / "told.json")
