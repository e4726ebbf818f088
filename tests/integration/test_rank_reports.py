"""One report of many ranks: who is blamed, what is kept, what the others were doing, what a person sees meanwhile."""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

HEAD = (
    "import ctypes, logging, os, signal, sys, threading, time, unittest, warnings\n"
    "import pytest\nimport torch\nimport torch.distributed as dist\n"
    "elastic = pytest.mark.elastic\n"
)
DEADLINE = 60.0


@pytest.fixture(autouse=True)
def wide_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PY_COLORS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "240")


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=HEAD + source)
    return pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:randomly", *args)


def told(result: pytest.RunResult) -> dict[str, str]:
    """Return the line of the short summary for each test; of several the last."""
    pattern = re.compile(r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) test_it\.py::(\S+)(?: - (.*))?$")
    lines = [match for match in map(pattern.match, result.outlines) if match]
    return {match[2]: f"{match[1]} {match[3] or ''}".strip() for match in lines}


def report_of(result: pytest.RunResult, test: str) -> str:
    """Return what is printed of one failed test."""
    text = result.stdout.str()
    begin = re.search(rf"^_+ {re.escape(test)} _+$", text, re.MULTILINE)
    assert begin is not None, test
    return re.split(r"^(?:_+ \S.*|=+ \S.*=)$", text[begin.end() :], maxsplit=1, flags=re.MULTILINE)[0]


BLAME = """
@elastic(nproc=4, backend="gloo", timeout=60)
def test_abort_before_a_collective(rank):
    if rank == 2:
        os.abort()
    dist.all_reduce(torch.zeros(1))

@elastic(nproc=3, timeout=60)
def test_others_that_handle_sigterm(rank):
    if rank == 1:
        time.sleep(0.3)
        raise ValueError("mine")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(15))
    time.sleep(60)

@elastic(nproc=2, backend="nope", timeout=60)
def test_no_such_backend(): pass

@elastic(nproc=2, timeout=60)
def test_two_fail_alike(rank):
    raise KeyError("both")

@elastic(nproc=2, timeout=60)
def test_two_fail_each_in_its_way(rank):
    raise KeyError(f"of {rank}")

@elastic(nproc=3, backend="gloo", timeout=60)
def test_one_returns_early(rank):
    if rank != 1:
        dist.barrier()

@elastic(nproc=3, backend="gloo", timeout=60)
def test_one_skips(rank):
    if rank == 1:
        pytest.skip("not here")
    dist.barrier()

@elastic(nproc=3, backend="gloo", timeout=60)
def test_one_expects_to_fail(rank):
    if rank == 1:
        pytest.xfail("known")
    dist.barrier()

@elastic(nproc=2, timeout=60)
def test_one_expects_to_fail_and_another_fails(rank):
    if rank == 1:
        pytest.xfail("known")
    raise ValueError("unknown")

@elastic(nproc=2, timeout=60)
def test_mark_applied_by_the_test(rank, request):
    request.applymarker(pytest.mark.xfail(reason="found out late"))
    assert rank != 1

@elastic(nproc=2, timeout=60)
def test_unittest_skip():
    raise unittest.SkipTest("as unittest does")
"""


def test_who_is_blamed(pytester: pytest.Pytester) -> None:
    result = run(pytester, BLAME, "-rpfExs")
    summary = told(result)
    assert summary == {
        "test_abort_before_a_collective": "FAILED [rank 2] killed by SIGABRT",
        "test_others_that_handle_sigterm": "FAILED [rank 1] ValueError: mine",
        "test_no_such_backend": summary["test_no_such_backend"],
        "test_two_fail_alike": summary["test_two_fail_alike"],
        "test_two_fail_each_in_its_way": summary["test_two_fail_each_in_its_way"],
        "test_one_returns_early": summary["test_one_returns_early"],
        "test_one_skips": summary["test_one_skips"],
        "test_one_expects_to_fail": "XFAIL known",
        "test_one_expects_to_fail_and_another_fails": "FAILED [rank 0] ValueError: unknown",
        "test_mark_applied_by_the_test": "XFAIL found out late",
    }
    assert "nope" in summary["test_no_such_backend"]
    assert result.parseoutcomes()["errors"] == 1, "one error of the set-up, and none of a teardown"
    assert re.fullmatch(r"FAILED \[rank [01]\] KeyError: 'both'", summary["test_two_fail_alike"])
    assert re.search(r"\(rank [01] failed alike\)", report_of(result, "test_two_fail_alike"))
    each = report_of(result, "test_two_fail_each_in_its_way")
    assert each.count('raise KeyError(f"of {rank}")') == 2, "both tracebacks are shown"
    early = (
        r"FAILED the ranks disagree: ranks 0,2 lost a peer in barrier at test_it.py:\d+ \(collateral\); rank 1 passed"
    )
    assert re.fullmatch(early, summary["test_one_returns_early"])
    assert summary["test_one_skips"].startswith(
        "FAILED the ranks disagree: rank 1 skipped: not here; ranks 0,2 lost a "
    )
    result.stdout.fnmatch_lines("SKIPPED * as unittest does")


SUBTESTS = """
pytestmark = elastic(nproc=2, timeout=60)

def test_passing_subtest_then_failure(subtests):
    with subtests.test("a"):
        pass
    time.sleep(0.2)
    assert 0, "after it"

@pytest.mark.xfail(strict=True)
def test_passing_subtest_then_expected_failure(subtests):
    with subtests.test("a"):
        pass
    assert 0

def test_skipping_subtest(subtests):
    with subtests.test("a"):
        pytest.skip("only this part")
    with subtests.test("b"):
        pass

def test_failing_subtest(subtests, rank):
    for number in range(3):
        with subtests.test("part", number=number):
            assert number != 1 or rank != 1

class TestCase(unittest.TestCase):
    def test_subtest(self):
        for number in range(2):
            with self.subTest(number=number):
                self.assertEqual(number, 0)
"""


def test_subtests(pytester: pytest.Pytester) -> None:
    summary = told(run(pytester, SUBTESTS, "-rpfEx"))
    assert summary["test_passing_subtest_then_failure"].startswith("FAILED [rank ")
    assert summary["test_passing_subtest_then_failure"].endswith("AssertionError: after it")
    assert summary["test_passing_subtest_then_expected_failure"].startswith("XFAIL")
    assert summary["test_skipping_subtest"] == "PASSED"
    assert summary["test_failing_subtest"].startswith("FAILED [rank 1] ")
    assert summary["TestCase::test_subtest"].startswith("FAILED [rank ")
    assert len(summary) == 5


TEARDOWN = """
HERE = os.path.dirname(__file__)

@pytest.fixture
def held(rank):
    yield
    time.sleep(0.2)
    open(f"{HERE}/function-{rank}", "w").close()

@pytest.fixture(scope="module")
def held_longer(rank):
    yield
    open(f"{HERE}/module-{rank}", "w").close()

@elastic(nproc=3, timeout=60)
def test_fixtures_end(rank, held, held_longer):
    if rank == 1:
        raise ValueError("mine")
    threading.Event().wait()

@pytest.fixture
def stuck():
    yield
    threading.Event().wait()

@elastic(nproc=2, timeout=60)
def test_a_teardown_that_hangs_is_bounded(rank, stuck):
    if rank == 1:
        raise ValueError("mine")
    threading.Event().wait()

@elastic(nproc=2, timeout=60)
def test_a_failing_teardown_of_a_rank_that_was_told_to_end(rank, request):
    request.addfinalizer(lambda: 1 / 0 if rank == 0 else None)
    if rank == 1:
        raise ValueError("mine")
    threading.Event().wait()
"""


def test_fixtures_are_torn_down_on_the_ranks_that_did_not_fail(pytester: pytest.Pytester) -> None:
    result = run(pytester, TEARDOWN, "-rpfEx", "--durations=0", "-o", "elastic_grace=1.5")
    assert told(result) == dict.fromkeys(
        [
            "test_fixtures_end",
            "test_a_teardown_that_hangs_is_bounded",
            "test_a_failing_teardown_of_a_rank_that_was_told_to_end",
        ],
        "FAILED [rank 1] ValueError: mine",
    )
    result.assert_outcomes(failed=3)
    left = {path.name for scope in ("function", "module") for path in pytester.path.glob(f"{scope}-?")}
    assert left == {f"{scope}-{rank}" for scope in ("function", "module") for rank in range(3)}
    assert "ranks 0,2 blocked in wait at test_it.py:" in report_of(result, "test_fixtures_end")


PHASES = """
@pytest.fixture
def gathers_in_teardown(rank, elastic_gather):
    yield
    if rank == 1:
        elastic_gather(1)

@elastic(nproc=2, timeout=20)
def test_one_gathers_in_its_teardown(gathers_in_teardown): pass

@pytest.fixture
def skips_in_teardown(rank):
    yield
    if rank == 1:
        pytest.skip("one")

@elastic(nproc=2, timeout=60)
def test_one_skips_in_its_teardown(skips_in_teardown): pass

@pytest.fixture
def bad_teardown():
    yield
    assert 0, "torn"

@elastic(nproc=1, timeout=60)
def test_skip_and_bad_teardown(bad_teardown): pytest.skip("here")

@elastic(nproc=1, timeout=60)
def test_xfail_and_bad_teardown(bad_teardown): pytest.xfail("there")

@elastic(nproc=1, timeout=60)
def test_failure_and_bad_teardown(bad_teardown): assert 0, "first"

@pytest.fixture
def meets_in_teardown():
    yield
    dist.barrier()

@elastic(nproc=4, backend="gloo", timeout=60)
def test_the_others_lose_their_peer_in_their_teardown(meets_in_teardown, rank):
    assert rank != 2
    dist.barrier()

class Odd(BaseException): pass

@pytest.mark.xfail(raises=(SystemExit, Odd))
@elastic(nproc=2, timeout=60)
def test_expected_to_exit(rank):
    if rank == 1: sys.exit(1)
    raise Odd

@elastic(nproc=2, timeout=60)
def test_without_output(rank):
    if rank == 1:
        os.close(1); os.close(2)
    else:
        sys.stdout = None

@elastic(nproc=2, timeout=60)
def test_only_the_text_is_of_a_lost_peer(rank):
    if rank == 1:
        raise RuntimeError("Connection closed by peer [127.0.0.1]")

@elastic(nproc=2, timeout=60)
def test_exit_with_a_message(rank):
    if rank == 1: sys.exit("usage: boo")

@elastic(nproc=2, timeout=60)
def test_fails_because_it_was_told_to_end(rank):
    if rank == 1:
        time.sleep(0.3)
        raise ValueError("mine")
    try:
        threading.Event().wait()
    finally:
        raise ValueError("of the clean-up")

@pytest.fixture
def hangs_in_teardown(rank):
    yield
    if rank == 1:
        threading.Event().wait()

@elastic(nproc=2, timeout=60)
def test_the_teardown_of_the_culprit_hangs(hangs_in_teardown, rank):
    assert rank != 1

@pytest.fixture
def noted(rank):
    yield
    open(f"{os.path.dirname(__file__)}/noted-{rank}", "w").close()

@elastic(nproc=2, timeout=60)
def test_interrupt(noted, rank):
    if rank == 1:
        raise KeyboardInterrupt
"""


def test_each_phase_is_told_as_in_a_plain_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, PHASES, "-rpfExs")
    lines = [line.replace(" test_it.py::", " ") for line in result.outlines]
    expected = [
        "ERROR test_one_gathers_in_its_teardown - [[]rank 1[]] *RanksDivergedError: elastic_gather on rank 1: *",
        "ERROR test_one_skips_in_its_teardown - the ranks disagree: rank 1 skipped: one; rank 0 passed",
        "ERROR test_skip_and_bad_teardown - [[]rank 0[]] AssertionError: torn",
        "SKIPPED [[]1[]] test_it.py:31: here",
        "ERROR test_xfail_and_bad_teardown - [[]rank 0[]] AssertionError: torn",
        "XFAIL test_xfail_and_bad_teardown - there",
        "ERROR test_failure_and_bad_teardown - [[]rank 0[]] AssertionError: torn",
        "FAILED test_failure_and_bad_teardown - [[]rank 0[]] AssertionError: first",
        "FAILED test_the_others_lose_their_peer_in_their_teardown - [[]rank 2[]] assert 2 != 2",
        "XFAIL test_expected_to_exit*",
        "PASSED test_without_output",
        "FAILED test_only_the_text_is_of_a_lost_peer - the ranks disagree: rank 1 lost a peer in *; rank 0 passed",
        "FAILED test_exit_with_a_message - [[]rank 1[]] exited with code 1 before the test ended: usage: boo",
        "FAILED test_fails_because_it_was_told_to_end - [[]rank 1[]] ValueError: mine",
        "FAILED test_the_teardown_of_the_culprit_hangs - [[]rank 1[]] assert 1 != 1",
        "FAILED test_interrupt - [[]rank 1[]] KeyboardInterrupt",
    ]
    for words in expected:
        assert any(fnmatch.fnmatchcase(line, words) for line in lines), words
    result.assert_outcomes(passed=3, failed=7, errors=5, xfailed=2, skipped=1)
    assert "RuntimeError: Connection closed by peer" in report_of(result, "test_only_the_text_is_of_a_lost_peer")
    assert "rank 1 was not done with its teardown: blocked in wait at test_it.py:" in result.stdout.str()
    assert "rank 0 of 1 failed in its teardown too, after" in result.stdout.str()
    assert {path.name for path in pytester.path.glob("noted-*")} == {"noted-0", "noted-1"}


PICKLES = """
class Handle:
    def __init__(self, a): self.a = a
    def __reduce__(self): return (Handle, ())

@elastic(nproc=2, timeout=60)
def test_property(record_property, rank):
    record_property("handle", Handle(1))
    record_property("same", "on all")
    record_property("loss", rank / 2)
    if rank == 1:
        record_property("only here", True)

def value():
    if os.environ["RANK"] == "1":
        raise ValueError("mine")
    return Handle(1)

def test_value(elastic_launch):
    result = elastic_launch(value, nproc=2, check=False, timeout=60)
    messages = {failure.rank: failure.message for failure in result.failures}
    assert messages[1] == "ValueError: mine"
    assert "cannot be read here" in messages[0]
"""


def test_what_pickles_but_cannot_be_made_again_and_properties_by_rank(pytester: pytest.Pytester) -> None:
    result = run(pytester, PICKLES, "--junitxml=out.xml")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        "*ElasticWarning: record_property('handle') (Handle: TypeError) of ranks 0-1 cannot be*"
    )
    tree = ElementTree.parse(pytester.path / "out.xml")
    properties = {each.get("name"): each.get("value") for each in tree.iter("property")}
    recorded = {name: value for name, value in properties.items() if not str(name).startswith("elastic_")}
    assert recorded == {"same": "on all", "loss[rank 0]": "0.0", "loss[rank 1]": "0.5", "only here": "True"}


def test_the_number_of_ranks_is_told_while_tests_run_only(pytester: pytest.Pytester) -> None:
    source = """
@elastic(nproc=2, timeout=60)
def test_two(): pass
@elastic(nproc=1, timeout=60)
def test_one(): assert 0
@elastic(nproc=2, timeout=60)
def test_skipped(): pytest.skip("no")
def test_plain(): pass
"""
    result = run(pytester, source, "-v", "-rfs")
    lines = "\n".join(result.outlines)
    for words in (
        "test_two PASSED [2 ranks] ",
        "test_one FAILED [0 FAILED] ",
        "test_skipped SKIPPED [2 ranks] (no)",
        "test_plain PASSED  ",
    ):
        assert words in lines, words
    assert told(result)["test_one"] == "FAILED [rank 0] assert 0"


WARNINGS = """
class Mine(UserWarning):
    def __init__(self, one, two): super().__init__(one, two)

@elastic(nproc=3, timeout=60)
def test_warns(rank):
    warnings.warn("of all")
    if rank != 1:
        warnings.warn("of some", DeprecationWarning)
    warnings.warn(Mine("strange", "class"))

@pytest.mark.filterwarnings("error")
@elastic(nproc=2, timeout=60)
def test_warnings_are_errors(rank):
    if rank == 1:
        warnings.warn("now an error")

@pytest.mark.filterwarnings("ignore")
@elastic(nproc=2, timeout=60)
def test_ignored():
    warnings.warn("never shown")

@pytest.mark.filterwarnings("error")
@elastic(nproc=2, timeout=60)
def test_a_failure_comes_before_what_was_left_behind(rank):
    if rank == 1:
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
        raise ValueError("mine")
"""


def test_warnings_are_told_once_with_their_ranks(pytester: pytest.Pytester) -> None:
    result = run(pytester, WARNINGS, "-rfE")
    summary = told(result)
    assert summary["test_warnings_are_errors"] == "FAILED [rank 1] UserWarning: now an error"
    text = result.stdout.str()
    assert "FAILED test_it.py::test_a_failure_comes_before_what_was_left_behind - [rank 1] ValueError: mine" in text
    assert text.count("UserWarning: [ranks 0-2] of all") == 1
    assert text.count("DeprecationWarning: [ranks 0,2] of some") == 1
    assert text.count("Mine: [ranks 0-2] ('strange', 'class')") == 1
    assert "never shown" not in text


def test_earlier_attempts_are_attached(pytester: pytest.Pytester) -> None:
    source = """
@elastic(nproc=2, max_restarts=1, timeout=60)
def test_fails_twice(rank):
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if rank == attempt:
        raise ValueError(f"attempt {attempt}")
    threading.Event().wait()

@elastic(nproc=2, max_restarts=2, timeout=60)
def test_passes_in_the_end(rank):
    assert os.environ["TORCHELASTIC_RESTART_COUNT"] == "2" or rank == 1
"""
    result = run(pytester, source, "-rfP")
    assert told(result) == {"test_fails_twice": "FAILED [rank 1] ValueError: attempt 1"}
    report = report_of(result, "test_fails_twice")
    assert re.search(r"^-+ Attempt 1 of 2 \(rank 0 failed first\) -+$", report, re.MULTILINE)
    assert "ValueError: attempt 0" in report
    passed = report_of(result, "test_passes_in_the_end")
    assert "Attempt 1 of 3 (rank 0 failed first)" in passed
    assert "Attempt 2 of 3 (rank 0 failed first)" in passed


def test_a_rank_can_stop_the_session(pytester: pytest.Pytester) -> None:
    source = """
@elastic(nproc=2, timeout=60)
def test_stops(rank, request):
    if rank == 1:
        request.session.shouldstop = "enough of it"

def test_never(): pass
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("*!! Interrupted: enough of it !!*")
    result = run(pytester, source.replace('request.session.shouldstop = "enough of it"', 'pytest.exit("at once", 7)'))
    assert result.ret == 7
    result.stdout.fnmatch_lines("*! _pytest.outcomes.Exit: at once !*")


LIVE = """
logger = logging.getLogger("mine")

@elastic(nproc=2, timeout=60)
def test_speaks(rank):
    for line in range(3):
        print(f"line {line} of {rank}")
        logger.warning("record %d of %d", line, rank)
    print("error of", rank, file=sys.stderr)
    libc = ctypes.CDLL(None)
    libc.puts(b"from C")
    libc.fflush(None)
    print("no end", end="")

def speak():
    print("spoken in a launch")

def test_launch(elastic_launch):
    elastic_launch(speak, nproc=2, timeout=60)
"""


def test_output_streams_whole_lines_with_their_rank(pytester: pytest.Pytester) -> None:
    result = run(pytester, LIVE, "-s")
    result.assert_outcomes(passed=2)
    for rank in (0, 1):
        lines = [line for line in result.outlines if line.startswith(f"[rank {rank}] ")]
        spoken = [line.partition("] ")[2] for line in lines]
        assert [line for line in spoken if line.startswith("line")] == [f"line {i} of {rank}" for i in range(3)]
        for words in ("from C", f"error of {rank}", "no end", "spoken in a launch"):
            assert words in spoken, words


def test_live_logs_name_the_rank(pytester: pytest.Pytester) -> None:
    result = run(pytester, LIVE, "-o", "log_cli=true", "-o", "log_cli_format=%(levelname)s %(message)s")
    result.assert_outcomes(passed=2)
    for rank in (0, 1):
        records = [line for line in result.outlines if line.startswith(f"[rank {rank}] WARNING record")]
        assert records == [f"[rank {rank}] WARNING record {line} of {rank}" for line in range(3)]
    assert "line 0 of 0" not in result.stdout.str()


def test_lines_come_while_the_test_runs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + f"""
@elastic(nproc=2, timeout=60)
def test_speaks(rank):
    print("here I am")
    while not os.path.exists({str(pytester.path / "heard")!r}):
        time.sleep(0.01)
"""
    )
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:xdist", "-p", "no:cacheprovider"]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        try:
            heard: set[str] = set()
            while heard != {"[rank 0] here I am\n", "[rank 1] here I am\n"}:
                line = next(lines)
                if line.startswith("[rank "):
                    heard.add(line)
            (pytester.path / "heard").touch()
            rest = process.stdout.read()
        finally:
            process.kill()
    assert "1 passed" in rest


def test_a_rank_that_is_killed_while_it_makes_its_report_has_its_traceback(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import time, pytest, pytest_elastic

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            if pytest_elastic.role(item.config) == "rank" and call.excinfo is not None:
                time.sleep(60)
            return (yield)
        """
    )
    source = """
def divide(number):
    assert number == 2, "by two only"

@elastic(nproc=2, timeout=60)
def test_bad(rank, elastic_barrier):
    if rank == 1:
        divide(rank)
    elastic_barrier()
    raise KeyError(rank)
"""
    result = run(pytester, source, "-o", "elastic_grace=1")
    shown = report_of(result, "test_bad")
    assert re.search(r"rank 1 of 2 failed first, after .* s: AssertionError: by two only", shown)
    assert re.search(r'File ".*test_it.py", line \d+, in test_bad\n    divide\(rank\)\n', shown)
    assert "assert 1 == 2" in shown
    assert "_pytest" not in shown.partition("rank 1 was not done with its teardown")[0]


def test_a_failure_is_on_disk_before_a_hang_and_a_kill_of_the_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
@elastic(nproc=2, timeout=60)
def test_bad(rank):
    if rank == 1:
        assert [1, 2] == [1, 3]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
"""
    )
    log = pytester.path / "logs" / "failures.log"
    command = [sys.executable, "-m", "pytest", "--elastic-log-dir=logs", "-o", "elastic_grace=50"]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + DEADLINE
            while not log.exists() or "test_it.py:10: AssertionError" not in log.read_text():
                assert time.monotonic() < until, log.read_text() if log.exists() else "no log"
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert re.search(r"^\d{4}-\S+ \S+ test_it.py::test_bad \[rank 1\] call: AssertionError: assert \[1, 2\] == ", text)
    assert "At index 1 diff: 2 != 3" in text
    assert "[rank 0]" not in text


LAUNCHES = """
def bad():
    print("out of", os.environ["RANK"])
    print("err of", os.environ["RANK"], file=sys.stderr)
    dist.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        raise ValueError("mine")
    dist.barrier()

def test_function(elastic_launch):
    elastic_launch(bad, nproc=2, timeout=60)

def test_command(elastic_launch):
    elastic_launch("sh", "-c", "echo OUT-LINE of $RANK; sleep $RANK; exit 3", nproc=2, timeout=60)

def test_deadline_of_a_command(elastic_launch):
    elastic_launch("sleep", "60", nproc=2, timeout=1.5)

def test_script_that_leaves_without_a_word(elastic_launch, tmp_path):
    script = tmp_path / "s.py"
    script.write_text("import os; os.environ['RANK'] == '1' and os._exit(0)")
    elastic_launch(script, nproc=2, timeout=60)
"""


def test_launches_show_the_output_of_ranks_that_failed(pytester: pytest.Pytester) -> None:
    result = run(pytester, LAUNCHES, "-rf")
    report = report_of(result, "test_function")
    assert re.search(r"^-+ Captured stdout call \(rank 1\) -+\nout of 1$", report, re.MULTILINE)
    assert "out of 0" not in report
    assert re.search(
        r"^-+ Captured stdout call \(rank 0\) -+\nOUT-LINE of 0$", report_of(result, "test_command"), re.MULTILINE
    )
    summary = told(result)
    assert "ElasticTimeoutError: timed out after 1.5 s" in summary["test_deadline_of_a_command"]
    assert "[rank 1] exited with code 0 before the script ended" in summary["test_script_that_leaves_without_a_word"]
    everything = run(pytester, LAUNCHES, "--elastic-show-output=all", "-k", "test_function").stdout.str()
    assert "out of 0" in everything


def test_etcd_is_shown_with_a_launch_that_asked_for_it_by_its_backend(pytester: pytest.Pytester) -> None:
    source = """
def bad():
    raise ValueError("mine")

def test_it(elastic_launch):
    elastic_launch(bad, nproc=1, rdzv_backend="etcd-v2", timeout=60)
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*- etcd server -*")


def test_a_report_survives_xdist_and_every_traceback_style(pytester: pytest.Pytester) -> None:
    source = """
@elastic(nproc=2, timeout=60)
def test_bad(rank):
    assert rank != 1
"""
    pytester.makepyfile(test_it=HEAD + source)
    for style in ("long", "line", "no"):
        args = ("-p", "no:randomly", f"--tb={style}")
        result = pytester.runpytest_subprocess(*args, *(("-n", "1") if style == "long" else ("-p", "no:xdist")))
        result.assert_outcomes(failed=1)
        assert told(result)["test_bad"] == "FAILED [rank 1] assert 1 != 1", style
        shows = "rank 1 of 2 failed first, after" in result.stdout.str()
        assert shows == (style != "no"), style
