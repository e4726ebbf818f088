"""Other plugins beside tests on ranks: what they do once, what they do in ranks, and what of theirs works there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from ..conftest import OTHERS

HEAD = """
import os, sys, time, threading, warnings
from pathlib import Path
import pytest
import torch
import torch.distributed as dist
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.run(sys.executable, "-m", "pytest", *args)


def test_unittest_methods(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
import unittest

def me(): return int(os.environ["RANK"])

@pytest.mark.elastic(nproc=2, timeout=60)
class TestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.log = ["class"]
    def setUp(self): self.log.append("up")
    def tearDown(self):
        self.log.append("down")
    @pytest.fixture(autouse=True)
    def use(self, rank, tmp_path): self.rank, self.tmp_path = rank, tmp_path

    def test_good(self):
        assert (self.log, self.rank) == (["class", "up"], me())
        self.assertTrue(self.tmp_path.is_dir())
    def test_assert(self):
        if me() == 1: self.assertEqual([1, 2], [1, 3])
    def test_skip(self): self.skipTest("not now")
    @unittest.skip("never")
    def test_static_skip(self): raise SystemExit
    @unittest.expectedFailure
    def test_expected(self): assert me() == 5
    @unittest.expectedFailure
    def test_unexpected(self): pass
    @pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
    def test_xfail(self): 1 / me()
    def test_subtests(self):
        for i in range(3):
            with self.subTest(i=i): assert i != 1 or me() != 1
    def test_raises_skip(self): raise unittest.SkipTest("raised")

class TestError(unittest.TestCase):
    def setUp(self): raise OSError("in setUp")
    @pytest.mark.elastic(nproc=2, timeout=60)
    def test_error(self): raise SystemExit

@pytest.mark.elastic(nproc=2, timeout=60)
def test_function_raises_unittests_skip(): raise unittest.SkipTest("raised in a function")
@pytest.mark.elastic(nproc=2, timeout=60)
def test_pytests_subtests(subtests, rank):
    for i in range(3):
        with subtests.test(i=i): assert i != 1 or rank != 1
"""
    )
    result = run(pytester, "-p", "no:xdist", "-rA", "-v")
    lines = re.findall(r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) .*::(\w+)(?: |$)", result.stdout.str(), re.MULTILINE)
    outcomes = {name: outcome for outcome, name in lines}
    assert outcomes == {
        "test_good": "PASSED",
        "test_assert": "FAILED",
        "test_expected": "XFAIL",
        "test_unexpected": "FAILED",
        "test_xfail": "XFAIL",
        "test_subtests": "FAILED",
        "test_error": "FAILED",
        "test_pytests_subtests": "FAILED",
    }
    result.stdout.fnmatch_lines("FAILED test_it.py::TestCase::test_assert - [[]rank 1[]] AssertionError: Lists dif*")
    result.stdout.fnmatch_lines("FAILED test_it.py::TestError::test_error - [[]rank ?[]] OSError: in setUp")
    for reason in ("not now", "never", "raised", "raised in a function"):
        result.stdout.fnmatch_lines(f"SKIPPED * {reason}")


def test_asynchronous_tests(pytester: pytest.Pytester) -> None:
    # On a busy machine it takes a rank seconds to make the report of what hypothesis has found.
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nelastic_grace = 20\n")
    pytester.makepyfile(
        test_asyncio=HEAD
        + """
import asyncio
import pytest_asyncio
from hypothesis import given, settings, strategies as st

pytestmark = pytest.mark.elastic(nproc=2, timeout=60)

@pytest_asyncio.fixture
async def value(rank):
    await asyncio.sleep(0)
    yield rank
    assert asyncio.get_running_loop()

@pytest.mark.elastic(backend="gloo")
@pytest.mark.asyncio
async def test_good(value, rank):
    total = torch.tensor(value)
    await asyncio.to_thread(dist.all_reduce, total)
    assert total.item() == 1

@pytest.mark.asyncio
async def test_bad(value):
    await asyncio.sleep(0)
    assert value != 1

@pytest.mark.asyncio
@settings(database=None)
@given(n=st.integers(0, 10**6))
async def test_given(n, rank, elastic_gather):
    await asyncio.sleep(0)
    assert n < 137 or rank != 1
    assert elastic_gather(n) == [n, n]
""",
        test_anyio=HEAD
        + """
import anyio
from hypothesis import given, settings, strategies as st

pytestmark = [pytest.mark.elastic(nproc=2, timeout=60), pytest.mark.anyio]

@pytest.fixture
def anyio_backend(): return "asyncio"

@pytest.fixture
async def value(rank):
    await anyio.sleep(0)
    yield rank

async def test_good(value, rank): assert value == rank
async def test_bad(value):
    await anyio.sleep(0)
    assert value != 1

@settings(database=None)
@given(n=st.integers(0, 10**6))
async def test_given(n, rank, elastic_gather):
    await anyio.sleep(0)
    assert n < 137 or rank != 1
    assert elastic_gather(n) == [n, n]
""",
    )
    result = run(pytester, "-p", "asyncio", "-p", "anyio", "-p", "hypothesispytest", "-p", "no:xdist")
    result.assert_outcomes(passed=2, failed=4)
    for name in ("asyncio", "anyio"):
        result.stdout.fnmatch_lines(f"FAILED test_{name}.py::test_given - [[]rank 1[]] assert (137 < 137 or 1 != 1)")
    result.stdout.fnmatch_lines("FAILED test_asyncio.py::test_bad - [[]rank 1[]] assert 1 != 1")
    result.stdout.fnmatch_lines("FAILED test_anyio.py::test_bad - [[]rank 1[]] assert 1 != 1")


def test_plugins_that_do_their_work_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage, reruns and reports: one data file, no file of a report truncated, markers and fixtures known."""
    pytester.makepyfile(
        covered="def used(): return 1\n",
        test_it=HEAD
        + """
import covered

@pytest.fixture(autouse=True)
def blocked(request):
    assert not request.config.pluginmanager.hasplugin("_cov")

@pytest.mark.elastic(nproc=2, timeout=60)
@pytest.mark.flaky(reruns=0)
@pytest.mark.timeout(50)
@pytest.mark.dependency()
def test_ranks(rank, cov, extras, json_metadata, mocker):
    extras.append({"name": "extra", "format_type": "text", "content": "shown", "mime_type": None, "extension": "txt"})
    mocker.patch("covered.used", return_value=2)
    assert covered.used() == 2

@pytest.mark.elastic(nproc=2, timeout=60)
@pytest.mark.dependency(depends=["test_ranks"])
def test_bad(rank): assert rank != 1

@pytest.mark.elastic(nproc=2, timeout=60)
@pytest.mark.dependency(depends=["test_bad"])
def test_skipped(rank): raise SystemExit
""",
        test_plain="import covered\ndef test_plain(): assert covered.used() == 1\n",
    )
    once = ("pytest_cov", "html", "html_fixtures", "metadata", "pytest_jsonreport", "pytest_reportlog")
    beside = ("dependency", "pytest_mock", "rerunfailures", "timeout")
    others = [name for name in OTHERS if name not in once + beside]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in ["xdist", *others]))
    options = ["--cov=covered", "--cov-report=json:cov.json", "--html=out.html", "--self-contained-html"]
    options += ["--json-report", "--json-report-file=out.json", "--report-log=out.jsonl", "--junitxml=out.xml"]
    options += ["--strict-markers", "--timeout=100"]
    result = run(pytester, *options)
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    log = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert log[0].keys() == {"pytest_version", "$report_type"}
    assert log[-1]["exitstatus"] == 1
    reports = [line["nodeid"] for line in log if line["$report_type"] == "TestReport"]
    assert len(reports) == 11
    assert len(json.loads(Path("out.json").read_text())["tests"]) == 4
    assert Path("out.xml").read_text().count("<testcase") == 4
    assert "rank 1 of 2 failed first" in Path("out.html").read_text()
    assert json.loads(Path("cov.json").read_text())["totals"]["percent_covered"] == 100.0
    assert sorted(path.name for path in pytester.path.glob(".coverage*")) == [".coverage"]


def test_reruns_have_fresh_ranks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
attempts = Path(os.environ["ATTEMPTS"])

@pytest.mark.flaky(reruns=2)
@pytest.mark.elastic(nproc=2, timeout=60)
def test_later(rank, tmp_path):
    assert attempt("later", rank) == 3 or rank != 1

def attempt(name, rank):
    (attempts / f"{name}-{rank}-{os.getpid()}").touch()
    return len(list(attempts.glob(f"{name}-{rank}-*")))

@pytest.mark.flaky(reruns=1)
@pytest.mark.elastic(nproc=2, isolation="module", timeout=60)
class TestKept:
    def test_kept(self, rank): pass
    def test_fails(self, rank): assert attempt("kept", rank) == 2
    def test_hangs(self, rank):
        if attempt("hangs", rank) == 1: threading.Event().wait()
        time.sleep(1.5)  # with what the first attempt took, that is more than the limit
    def test_kept_again(self, rank): pass

@pytest.mark.flaky(reruns=1, only_rerun="OSError")
@pytest.mark.elastic(nproc=2, timeout=60)
def test_other_error(rank): assert rank != 1

@pytest.fixture
def bad(rank): raise OSError("in set-up")
@pytest.mark.flaky(reruns=1)
@pytest.mark.elastic(nproc=2, timeout=60)
def test_set_up(bad): pass

def test_plain(): pass
"""
    )
    attempts = pytester.mkdir("attempts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTEMPTS", str(attempts))
        plugins = ["-p", "rerunfailures", "-p", "timeout", "-p", "no:xdist"]
        result = run(pytester, *plugins, "-rfER", "--timeout=3")
    result.stdout.fnmatch_lines("*1 failed, 6 passed, 1 error, 5 rerun in *")
    assert len(list(attempts.glob("later-*"))) == 6
    assert len(list(attempts.glob("kept-*"))) == 4
    assert len(list(attempts.glob("hangs-*"))) == 4


def test_pytest_timeout_ends_that_test_only(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
@pytest.mark.timeout(3)
@pytest.mark.elastic(nproc=2, timeout=60)
def test_hang(rank):
    import signal
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    threading.Event().wait()

@pytest.mark.elastic(nproc=2, timeout=60)
def test_next(rank): pass
def test_plain(): pass

def wait_on_a_rank():
    print("waits on a rank", flush=True)
    threading.Event().wait()

@pytest.mark.timeout(2)
def test_launches(elastic_launch):
    elastic_launch(wait_on_a_rank, nproc=2, timeout=60)

@pytest.mark.timeout(2)
def test_waits(elastic_launch):
    with elastic_launch.start(wait_on_a_rank, nproc=2, timeout=60) as run:
        run.wait_for_output("never")
"""
    )
    result = run(pytester, "-p", "timeout", "-p", "no:xdist")
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines("timed out after 3 s (pytest-timeout): test_hang")
    assert len([line for line in result.outlines if "Timeout" in line and "2.0s" in line]) >= 2
    # What the ranks of a launch wrote, and where they were, is not lost with it.
    for rank in (0, 1):
        assert result.outlines.count("waits on a rank") == 4
        assert len([line for line in result.outlines if f"Captured stdout call (rank {rank})" in line]) >= 2
    assert len([line for line in result.outlines if "Stacks of ranks 0-1" in line]) == 2


def test_xdist_reports_every_test_once_and_ranks_start_no_workers(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n")
    Path("other.ini").write_text("[pytest]\nmarkers = slow: s\nelastic_timeout = 60\nstrict_markers = true\n")
    pytester.makepyfile(
        myplugin="import pytest\n@pytest.fixture\ndef mine(): return 1\n",
        test_it=HEAD
        + """
@pytest.mark.slow
@pytest.mark.xdist_group("together")
@pytest.mark.elastic(nproc=2)
@pytest.mark.parametrize("a", range(4))
def test_ranks(a, mine, request, worker_id, rank):
    assert request.config.workerinput["workerid"] == worker_id in ("gw0", "gw1")
    assert request.config.getoption("dist") == "no" and not request.config.getoption("tx")
    assert request.config.inipath.name == "other.ini"
    assert not request.config.pluginmanager.hasplugin("dsession")
    assert a != 3 or rank != 1
""",
    )
    result = run(pytester, "-n2", "--dist=loadgroup", "-c", "other.ini", "-p", "myplugin", "-v")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines("FAILED test_it.py::test_ranks[[]3[]] - [[]rank 1[]] assert*")
    alone = run(pytester, "-n0", "-c", "other.ini", "-p", "myplugin", "-k", "0", "-o", "elastic_block_plugins=xdist")
    alone.stdout.fnmatch_lines("*fixture 'worker_id' not found*")


def test_randomly_uses_the_seed_of_the_header(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
import random

@pytest.mark.elastic(nproc=2, timeout=60)
@pytest.mark.parametrize("a", range(2))
def test_ranks(request, rank, a):
    Path(f"seed-{a}-{rank}").write_text(f"{request.config.getoption('randomly_seed')} {random.random()}")
"""
    )
    result = run(pytester, "-p", "randomly", "-p", "repeat", "--count=2", "-p", "no:xdist")
    result.assert_outcomes(passed=4)
    (seed,) = re.findall(r"Using --randomly-seed=(\d+)", result.stdout.str())
    texts = [Path(f"seed-{a}-{rank}").read_text() for a in range(2) for rank in range(2)]
    assert [text.split()[0] for text in texts] == [seed] * 4
    assert texts[0] == texts[1]
    assert texts[2] == texts[3]


def test_a_group_that_cannot_be_made_is_one_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
@pytest.mark.elastic(nproc=1, backend="no-such-backend", timeout=60)
def test_ranks(caplog): pass
@pytest.fixture
def bad(): raise OSError
@pytest.mark.elastic(nproc=1, backend="gloo", timeout=60)
def test_fixture(bad): pass
"""
    )
    result = run(pytester, "-p", "no:xdist")
    result.assert_outcomes(errors=2)
    fixture = result.stdout.str().partition("ERROR at setup of test_fixture")[2]
    assert fixture
    assert "pytest_runtest_setup" not in fixture


def test_blocked_plugins_are_loaded_in_the_controller_only(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        noisy="""
import pytest, pytest_elastic
def pytest_addoption(parser):
    parser.addoption("--noisy", action="store_true")
    parser.addini("noisy_key", "a key")
def pytest_addhooks(pluginmanager):
    class Specs:
        def pytest_noisy(self): ...
    pluginmanager.add_hookspecs(Specs)
def pytest_configure(config):
    config.addinivalue_line("markers", "noisy: of the plugin")
    assert pytest_elastic.role(config) == "controller"
def pytest_runtest_setup(item): assert pytest_elastic.role(item.config) == "controller"
@pytest.fixture(autouse=True)
def never(): raise SystemExit
""",
        conftest="import pytest\n@pytest.hookimpl(optionalhook=False)\ndef pytest_noisy(): pass\n",
        test_it=HEAD
        + """
@pytest.mark.noisy
@pytest.mark.elastic(nproc=1, timeout=60)
def test_ranks(request):
    manager = request.config.pluginmanager
    assert not manager.hasplugin("noisy") and not manager.hasplugin("faulthandler")
    assert request.config.getoption("--noisy") and request.config.getini("noisy_key") == "set"
""",
    )
    pytester.makeini("[pytest]\nelastic_block_plugins = noisy faulthandler\nnoisy_key = set\nstrict = true\n")
    run(pytester, "-p", "noisy", "--noisy", "-p", "no:xdist").assert_outcomes(passed=1)


def test_asserts_are_rewritten_wherever_pytest_rewrites_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        conftest="""
import pytest
pytest.register_assert_rewrite("registered")
pytest_plugins = ["of_conftest"]
@pytest.fixture
def in_conftest(): return lambda a, b: check(a, b)
def check(a, b): assert a == b
""",
        registered="def check(a, b): assert a == b\n",
        of_conftest="import pytest\n@pytest.fixture\ndef in_plugin():\n"
        "    def check(a, b): assert a == b\n    return check\n",
        by_option="import pytest\n@pytest.fixture\ndef in_option():\n"
        "    def check(a, b): assert a == b\n    return check\n",
        plain="def check(a, b): assert a == b\n",
        test_it=HEAD
        + """
import registered, plain
@pytest.mark.elastic(nproc=1, timeout=60)
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_asserts(in_conftest, in_plugin, in_option, method):
    for check in (in_conftest, in_plugin, in_option, registered.check):
        with pytest.raises(AssertionError, match="assert 1 == 2"):
            check(1, 2)
    with pytest.raises(AssertionError) as error:
        plain.check(1, 2)
    assert str(error.value) == ""

@pytest.mark.elastic(nproc=1, timeout=60, start_method="spawn")
def test_spawned(in_conftest, in_plugin, in_option):
    test_asserts_body = test_asserts
    test_asserts_body(in_conftest, in_plugin, in_option, "spawn")
""",
    )
    run(pytester, "-p", "by_option", "-p", "no:xdist").assert_outcomes(passed=3)
