"""Other plugins beside tests on ranks: time limits, examples, snapshots, terminals, and several at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

HEAD = """
import os, sys, threading, time
from pathlib import Path
import pytest
import torch
import torch.distributed as dist
"""


@pytest.fixture(autouse=True)
def not_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins take an inner session for a worker of pytest-xdist where this suite itself runs in one."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.run(sys.executable, "-m", "pytest", *args)


TIMEOUTS = (
    HEAD
    + """
started = time.monotonic()
pytestmark = pytest.mark.elastic(nproc=2, timeout=60)

@pytest.fixture
def slow():
    time.sleep(1.7)
    yield
    time.sleep(1.7)

@pytest.fixture(scope="session", params=[0])
def of_session(request):
    yield
    time.sleep(0.1)

def test_first(rank): pass

def test_ini(rank): threading.Event().wait()

@pytest.mark.timeout(1.5, method="thread")
@pytest.mark.elastic(isolation="module")
class TestKept:
    def test_before(self, rank): pass
    def test_thread(self, rank): threading.Event().wait()
    def test_after(self, rank): pass

@pytest.mark.timeout(50)
@pytest.mark.elastic(timeout=1.5)
def test_marker_is_smaller(rank): threading.Event().wait()

@pytest.mark.timeout(1.5, func_only=True)
def test_call_alone(slow): pass

@pytest.mark.timeout(1.5, func_only=True)
def test_call_hangs(rank): threading.Event().wait()

@pytest.mark.timeout(1.5, func_only=True)
@pytest.mark.elastic(max_restarts=1)
def test_call_hangs_where_it_may_start_again(slow): threading.Event().wait()

@pytest.mark.timeout(0)
@pytest.mark.elastic(timeout=1.5)
def test_none(rank): threading.Event().wait()

def test_last(rank): pass
"""
)


def test_limits_of_pytest_timeout_are_deadlines(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\ntimeout = 20\n")
    monkeypatch.setenv("PYTEST_TIMEOUT", "2")  # wins over the ini key
    pytester.makepyfile(test_it=TIMEOUTS)
    result = run(pytester, "-p", "timeout", "-p", "no:xdist", "--timeout-method=signal")
    result.assert_outcomes(passed=5, failed=6)
    told = re.findall(r"^(timed out after .*)$", result.stdout.str(), re.MULTILINE)
    assert told == [
        "timed out after 2 s (pytest-timeout): test_ini",
        "timed out after 1.5 s (pytest-timeout): test_thread",
        "timed out after 1.5 s: test_marker_is_smaller",
        "timed out after 1.5 s (pytest-timeout): test_call_hangs",
        "timed out after 1.5 s (pytest-timeout): test_call_hangs_where_it_may_start_again",
        "timed out after 1.5 s: test_none",
    ]
    assert len([line for line in result.outlines if re.match(r"ranks 0-1: in wait at test_it\.py:\d+$", line)]) == 6


EXAMPLES = """
from hypothesis import assume, example, given, settings, strategies as st, target

pytestmark = pytest.mark.elastic(nproc=2, timeout=60)
drawn = {}

def note(name, n):
    drawn.setdefault(name, []).append(n)
    Path(f"{name}-{os.environ['RANK']}.txt").write_text(" ".join(map(str, drawn[name])))

@given(n=st.integers(0, 10**9))
def test_draws(n, rank, elastic_gather):
    note("draws", n)
    assert elastic_gather(n) == [n, n]
"""


def drawn(name: str) -> list[list[str]]:
    return [Path(f"{name}-{rank}.txt").read_text().split() for rank in (0, 1)]


def test_hypothesis_draws_the_same_on_all_ranks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + EXAMPLES
        + """
@pytest.mark.elastic(backend="gloo")
@given(n=st.integers(0, 10**6))
def test_fails_alone(n, rank):
    note("alone", n)
    total = torch.tensor(n)
    dist.all_reduce(total)
    assert total.item() == 2 * n
    assert n < 137 or rank != 1

@given(n=st.integers(0, 10**6))
def test_fails_before_a_call(n, rank, elastic_gather):
    assert n < 137 or rank != 1
    assert elastic_gather(n) == [n, n]

@pytest.mark.elastic(backend="gloo")
@given(n=st.integers(0, 10**6))
def test_fails_before_a_collective(n, rank):
    assert n < 137 or rank != 1
    dist.barrier()

@given(n=st.integers(0, 10**6))
def test_fails_alike(n): assert n < 137

@given(n=st.integers(0, 10**6))
def test_exits(n, rank):
    if n >= 137 and rank == 1: sys.exit(2)

@pytest.mark.parametrize("number", [1])
@given(n=st.integers(0, 100), data=st.data())
def test_rejects(n, data, rank, number, elastic_gather):
    m = data.draw(st.integers(0, 100))
    assert elastic_gather((n, m)) == [(n, m)] * 2
    assume(n % 2 or rank)

@given(n=st.integers(0, 3))
def test_hypothesis_own_deadline(n, rank): time.sleep(0.25 if n + rank == 1 else 0)

@settings(deadline=400, database=None)
@given(n=st.integers(0, 3))
def test_own_deadline(n, rank): time.sleep(0.6 if n + rank == 4 else 0)

@given(n=st.integers(0, 10**6))
def test_targets(n, rank, elastic_gather):
    target(n if rank else -n)
    assert elastic_gather(n) == [n, n]
"""
    )
    # Under CI hypothesis takes a profile without a database.
    options = ["-p", "hypothesispytest", "--hypothesis-profile=default", "-p", "no:xdist", "-p", "no:cacheprovider"]
    result = run(pytester, *options)
    result.assert_outcomes(passed=4, failed=6)
    first = drawn("draws")
    assert first[0] == first[1]
    assert len(first[0]) == 100
    text = result.stdout.str()
    for name in ("test_fails_alone", "test_fails_before_a_call", "test_fails_alike"):
        told = text.partition(f"_ {name} _")[2]
        shrunk = re.search(r"Failing test case: (\w+)\(\n(?:E +\w+=.*\n)*?E +n=(\d+),\n", told)
        assert shrunk is not None
        assert shrunk.groups() == (name, "137")
    result.stdout.fnmatch_lines("rank 1 of 2 failed first, * (rank 0 did not fail that example by itself (collateral))")
    result.stdout.fnmatch_lines("rank ? of 2 failed first, *: assert 137 < 137 (rank ? failed alike)")
    result.stdout.fnmatch_lines("FAILED test_it.py::test_exits - [[]rank 1[]] exited with code 2 *")
    lost = text.partition("_ test_fails_before_a_collective _")[2]
    assert re.match(r"_+\nrank 1 of 2 failed first, after [2-9]", lost)
    assert "(not shrunk: another rank had not ended this example 2 s later)" in lost
    deadline = text.partition("_ test_own_deadline _")[2]
    assert re.match(r"_+\nrank 1 of 2 failed first, .*DeadlineExceeded", deadline)
    assert drawn("alone")[0] == drawn("alone")[1]

    # What has failed is tried again, by all ranks; other examples are new ones.
    again = run(pytester, *options, "-k", "alone or draws")
    again.assert_outcomes(passed=1, failed=1)
    for name, examples in (("alone", ["137"]), ("draws", None)):
        assert drawn(name)[0] == drawn(name)[1]
        assert examples is None or drawn(name)[0][:1] == examples
    assert drawn("draws") != first


@pytest.mark.soak
def test_hypothesis_draws_by_the_seed_of_the_command_line(pytester: pytest.Pytester) -> None:
    again = """
@given(n=st.integers(0, 10**9))
def test_draws_again(n, rank): note("again", n)
"""
    pytester.makepyfile(test_it=HEAD + EXAMPLES + again)
    options = ["--hypothesis-profile=default", "--hypothesis-seed=7", "--hypothesis-show-statistics", "-p", "no:xdist"]
    result = run(pytester, "-p", "hypothesispytest", *options)
    result.assert_outcomes(passed=2)
    assert drawn("draws")[0] == drawn("draws")[1] == drawn("again")[0] == drawn("again")[1]
    assert result.outlines.count("    - 100 passing, 0 failing, and 0 invalid test cases") == 2


def test_snapshots_of_syrupy_are_written_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
from syrupy.extensions.json import JSONSnapshotExtension

pytestmark = pytest.mark.elastic(nproc=2, timeout=60)

def test_same(snapshot, world_size):
    assert {"ranks": world_size} == snapshot
    assert os.environ.get("SECOND", "second") == snapshot

def test_own(snapshot, rank):
    assert rank == snapshot(name=f"rank {rank}")
    assert [1, 2] == snapshot(extension_class=JSONSnapshotExtension, name="json")

@pytest.mark.skipif("DIES" in os.environ, reason="was there")
def test_differs(snapshot, rank): assert rank == snapshot

def test_dies(snapshot, rank):
    if "DIES" in os.environ: os._exit(3)
    assert "alive" == snapshot
""",
        test_plain="def test_plain(snapshot): assert 'plain' == snapshot\n",
    )
    options = ["-p", "syrupy", "--tb=short"]
    update = run(pytester, *options, "-p", "no:xdist", "--snapshot-update")
    update.assert_outcomes(passed=5, errors=1)
    update.stdout.fnmatch_lines(
        "snapshot 'test_differs' was not written, since the ranks differ in it: rank 0: 0; rank 1: 1 (*"
    )
    update.stdout.fnmatch_lines("1 snapshot failed. 7 snapshots generated.")
    files = sorted(Path("__snapshots__").rglob("*.*"), key=lambda file: file.name)
    written = {file: file.read_text() for file in files}
    assert [file.name for file in files] == ["test_it.ambr", "test_own[json].json", "test_plain.ambr"]
    assert re.findall(r"# name: (.*)", written[files[0]]) == [
        "test_dies",
        "test_own[rank 0]",
        "test_own[rank 1]",
        "test_same",
        "test_same.1",
    ]

    monkeypatch.setenv("DIES", "1")
    monkeypatch.setenv("SECOND", "another")
    compare = run(pytester, *options, "-p", "xdist", "-n2")
    compare.assert_outcomes(passed=2, failed=2, skipped=1)
    compare.stdout.fnmatch_lines("rank ? of 2 failed first, *assert ?+ received? == ?- snapshot? (rank ? failed alike)")
    compare.stdout.fnmatch_lines(["E*- 'second'", "E*+ 'another'"])
    # Nothing is unused, and would be deleted, not even what a rank that died had no time to use. For the worker that
    # did not run that test it has not run.
    compare.stdout.fnmatch_lines("1 snapshot failed. 5 snapshots passed.")
    assert "unused" not in compare.stdout.str()


TERMINAL = (
    HEAD
    + """
pytestmark = pytest.mark.elastic(nproc=2, timeout=60)

def test_good(rank): print("written by", rank)
def test_bad(rank): assert rank != 1
def test_skips(): pytest.skip("not now")
@pytest.mark.xfail
def test_expected(rank): assert rank != 0
"""
)


def plain_text(result: pytest.RunResult) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", result.stdout.str())


def test_one_line_a_test_in_the_terminal_of_pytest_sugar(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TERMINAL)
    result = run(pytester, "-p", "sugar", "--force-sugar", "-v", "-p", "no:xdist", "--tb=short")
    lines = [line.split() for line in plain_text(result).splitlines()]
    assert [line[:2] for line in lines if line and line[0].startswith("test_it.py::")] == [
        ["test_it.py::test_good", "✓"],
        ["test_it.py::test_bad", "\N{VECTOR OR CROSS PRODUCT}"],
        ["test_it.py::test_skips", "s"],
        ["test_it.py::test_expected", "x"],
    ]
    assert lines.count(["1", "passed"]) == lines.count(["1", "failed"]) == 1
    assert "rank 1 of 2 failed first" in plain_text(result)


def test_several_plugins_at_once(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nenv =\n    OF_ENV=1\nstrict_markers = true\n")
    pytester.makepyfile(
        test_it=TERMINAL
        + """
import random

def test_measures(benchmark, rank):
    calls = []
    benchmark(calls.append, rank)
    assert calls == [rank]

def test_measures_rounds(benchmark):
    calls = []
    benchmark.pedantic(calls.append, args=(1,), rounds=5)
    assert calls == [1]

@pytest.mark.repeat(2)
@pytest.mark.elastic(nproc=[1, 2])
def test_repeated(world_size, rank):
    with open(f"of-{world_size}-{rank}", "a") as file: file.write(f"{random.random()}\\n")

@pytest.mark.order(1)
def test_first(elastic_gather):
    assert os.environ["OF_ENV"] == "1"
    assert len(set(elastic_gather(os.getpid()))) == 2

def test_checks(check, rank):
    check.equal(rank, 0)
    check.is_true(True)

def describe_something():
    def it_runs(rank): assert os.environ["RANK"] == str(rank)

def test_in_report(extras, record_property, rank):
    import pytest_html
    extras.append(pytest_html.extras.text("of all", name="shared"))
    extras.append(pytest_html.extras.text(f"of {rank}", name="own"))
    record_property("number", rank)
"""
    )
    plugins = ["benchmark", "check", "env", "html", "pytest-describe", "pytest-split", "pytest_order", "repeat"]
    options = [option for name in plugins for option in ("-p", name)] + [
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    options += ["-p", "html_fixtures", "-p", "metadata", "-p", "pretty", "-p", "no:xdist", "-v", "--tb=short"]
    options += ["--html=out.html", "--self-contained-html", "--junitxml=out.xml", "--splits=1", "--group=1"]
    result = run(pytester, *options)
    text = plain_text(result)
    outcomes = re.findall(r"^test_it\.py::(\S+) ([A-Z]+) (?:\(.*\) )?\[(\d ranks?|0 [^]]*)\]", text, re.MULTILINE)
    assert outcomes == [
        ("test_first", "PASSED", "2 ranks"),
        ("test_good", "PASSED", "2 ranks"),
        ("test_bad", "FAILED", "0 ok 1 FAILED"),
        ("test_skips", "SKIPPED", "2 ranks"),
        ("test_expected", "XFAIL", "2 ranks"),
        ("test_measures", "PASSED", "2 ranks"),
        ("test_measures_rounds", "PASSED", "2 ranks"),
        *((f"test_repeated[{step}-2-nproc={size}]", "PASSED", words) for step in (1, 2) for size, words in SIZES),
        ("test_checks", "FAILED", "0 ok 1 FAILED"),
        ("describe_something::it_runs", "PASSED", "2 ranks"),
        ("test_in_report", "PASSED", "2 ranks"),
    ]
    assert text.count("pytest-benchmark measures nothing on ranks") == 2
    assert len({line for file in Path().glob("of-*") for line in file.read_text().splitlines()}) == 1
    assert sorted(len(file.read_text().splitlines()) for file in Path().glob("of-*")) == [2, 2, 2]
    assert re.search(r"│ +test_it.py +│ +test_bad +│ +10 +│ +10 +│", text)
    page = Path("out.html").read_text()
    blob = re.search(r'data-jsonblob="([^"]*)"', page)
    assert blob is not None
    tests = json.loads(blob[1].replace("&#34;", '"').replace("&#39;", "'").replace("&amp;", "&"))["tests"]
    assert len(tests) == len(outcomes)
    (shown,) = [each for name, each in tests.items() if name.endswith("test_in_report")]
    names = [extra["name"] for extra in shown[-1]["extras"]]
    assert names == ["shared", "own [rank 0]", "own [rank 1]", "ranks"]
    report = Path("out.xml").read_text()
    assert report.count("<testcase") == len(outcomes)
    for rank in (0, 1):
        assert f'<property name="number[rank {rank}]" value="{rank}" />' in report


SIZES = ((1, "1 rank"), (2, "2 ranks"))
