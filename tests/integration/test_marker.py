"""The marker's first cut: a whole test on every rank, one report."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("no_color")


@pytest.fixture
def no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PY_COLORS", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=source)
    return pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:randomly", *args)


HEAD = "import os, signal, sys, threading, time\nimport pytest\nimport torch\nimport torch.distributed as dist\n"


def test_the_whole_test_runs_on_every_rank(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made")
    yield path
    (path / "torn-down").touch()

@pytest.mark.elastic(nproc=4, backend="gloo", timeout=60)
@pytest.mark.parametrize("factor", [1, 2])
def test_all_reduce(rank, local_rank, world_size, factor, made, tmp_path, monkeypatch, capsys):
    assert rank == local_rank == int(os.environ["RANK"]) == dist.get_rank()
    assert world_size == 4
    tensor = torch.tensor(rank * factor)
    dist.all_reduce(tensor)
    assert tensor.item() == sum(range(world_size)) * factor
    assert tmp_path.parent.name == str(rank)
    with open(os.environ["OUT"], "a") as file:
        file.write(f"{rank} {factor}\\n")
"""
    )
    out = pytester.path / "out"
    pytester.makeconftest(f"import os\nos.environ['OUT'] = {str(out)!r}\n")
    result = run(pytester, source, "-v")
    result.assert_outcomes(passed=2)
    ran = sorted(out.read_text().split("\n")[:-1])
    assert ran == sorted(f"{rank} {factor}" for rank in range(4) for factor in (1, 2))


def test_the_culprits_own_traceback_comes_first_and_the_others_are_folded(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(nproc=4, backend="gloo", timeout=60)
def test_bad(rank):
    print("hello from", rank)
    if rank == 2:
        assert [1, 2, 3] == [1, 2, 4]
    dist.barrier()
    threading.Event().wait()

def test_next():
    pass
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "rank 2 of 4 failed first, after * s: assert [[]1, 2, 3] == [[]1, 2, 4]*",
            "    def test_bad(rank):",
            ">           assert [[]1, 2, 3] == [[]1, 2, 4]",
            "E             At index 2 diff: 3 != 4",
            "test_it.py:10: AssertionError",
            "*Captured stdout call (rank 2)*",
            "hello from 2",
            "FAILED test_it.py::test_bad - [[]rank 2] assert [[]1, 2, 3] == [[]1, 2, 4]",
        ]
    )
    result.stdout.no_fnmatch_line("*hello from 0*")


FAILURES = {
    "raise": ("raise ValueError('mine')", "[rank 1] ValueError: mine"),
    "assert": ("assert rank == 5", "[rank 1] assert 1 == 5"),
    "sys.exit": ("sys.exit(3)", "[rank 1] exited with code 3 before the test ended"),
    "sys.exit 0": ("sys.exit(0)", "[rank 1] exited with code 0 before the test ended"),
    "os._exit 0": ("os._exit(0)", "[rank 1] exited with code 0 before the test ended"),
    "os._exit 9": ("os._exit(9)", "[rank 1] exited with code 9 before the test ended"),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", "[rank 1] killed by SIGKILL"),
    "SIGSEGV": ("os.kill(os.getpid(), signal.SIGSEGV)", "[rank 1] killed by SIGSEGV"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "[rank 1] KeyboardInterrupt"),
}


def test_every_way_to_fail_is_named_with_its_rank_and_the_next_test_runs(pytester: pytest.Pytester) -> None:
    source = HEAD
    for number, (statement, _) in enumerate(FAILURES.values()):
        source += f"""
@pytest.mark.elastic(nproc=3, backend="gloo", timeout=60)
def test_bad_{number}(rank):
    if rank == 1:
        {statement}
    dist.barrier()
    dist.barrier()

@pytest.mark.elastic(nproc=2, timeout=60)
def test_next_{number}(rank):
    pass
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=len(FAILURES), failed=len(FAILURES))
    told = [line for line in result.outlines if line.startswith("FAILED ")]
    assert told == [f"FAILED test_it.py::test_bad_{i} - {words}" for i, (_, words) in enumerate(FAILURES.values())]


def test_a_hang_ends_at_the_deadline_with_all_stacks_and_the_next_test_runs(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(nproc=3, backend="gloo", timeout=3)
def test_hang(rank):
    if rank == 1:
        threading.Event().wait()
    dist.barrier()

@pytest.mark.elastic(nproc=2, timeout=60)
def test_next(rank):
    pass
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "timed out after 3 s: test_hang",
            "ranks 0,2: in barrier at test_it.py:10",
            "rank 1: in wait at test_it.py:9",
            "FAILED test_it.py::test_hang - timed out after 3 s: test_hang",
        ]
    )


def test_failures_of_fixtures_are_errors_of_their_phase(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
pytestmark = pytest.mark.elastic(nproc=2, timeout=60)

@pytest.fixture
def bad_setup(rank):
    assert rank != 1, "in set-up"

@pytest.fixture
def bad_teardown(rank):
    yield
    assert rank != 0, "in teardown"

def test_setup(bad_setup): pass
def test_teardown(bad_teardown): pass
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_setup*",
            "rank 1 of 2 failed first*in set-up*",
            "*ERROR at teardown of test_teardown*",
            "rank 0 of 2 failed first*in teardown*",
            "ERROR test_it.py::test_setup - [[]rank 1] AssertionError: in set-up",
            "ERROR test_it.py::test_teardown - [[]rank 0] AssertionError: in teardown",
        ]
    )


def test_skips_and_xfails_are_judged_on_what_all_ranks_did(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
pytestmark = pytest.mark.elastic(nproc=2, timeout=60)

@pytest.mark.skip(reason="static")
def test_static(): raise SystemExit
def test_all_skip(): pytest.skip("all of us")
def test_one_skips(rank):
    if rank == 1: pytest.skip("only me")
@pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
def test_known_bug_of_one_rank(rank):
    if rank == 1: 1 / 0
@pytest.mark.xfail(strict=True)
def test_no_bug(): pass
@pytest.mark.xfail(raises=ZeroDivisionError)
def test_other_bug(rank): raise ValueError("other")
def test_imperative(): pytest.xfail("not yet")
"""
    )
    result = run(pytester, source, "-rsx")
    result.assert_outcomes(skipped=2, failed=3, xfailed=2)
    result.stdout.fnmatch_lines(
        [
            "the ranks disagree: rank 1 skipped: only me; rank 0 passed",
            "SKIPPED [[]1[]] test_it.py:*: static",
            "SKIPPED [[]1[]] test_it.py:*: all of us",
            "XFAIL test_it.py::test_known_bug_of_one_rank*",
        ]
    )


def test_bad_marks_fail_their_test_in_one_line_and_the_rest_runs(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(4)
def test_positional(): pass
@pytest.mark.elastic(nprocs=4)
def test_unknown(): pass
@pytest.mark.elastic(nproc=0)
def test_zero(): pass
@pytest.mark.elastic(nproc=2, isolation="later")
def test_later(): pass
@pytest.mark.elastic(nproc=2, timeout=60)
def test_good(rank): pass
def test_plain(): pass
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(passed=2, errors=4)
    result.stdout.fnmatch_lines(
        [
            "marker elastic takes keywords only, got 4; allowed are nproc, *",
            "marker elastic has no argument 'nprocs' (did you mean nproc?); allowed are nproc, *",
            "marker elastic(nproc=): got 0, expected an int >= 1, *",
            "marker elastic(isolation=): got 'later', expected *",
        ]
    )


def test_the_closest_mark_wins_argument_by_argument(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
pytestmark = pytest.mark.elastic(nproc=2, timeout=60, env={"WHO": "module"})

@pytest.mark.elastic(nproc=3)
class TestClass:
    def test_class(self, world_size):
        assert (world_size, os.environ["WHO"]) == (3, "module")

    @pytest.mark.elastic(nproc=1, env={"WHO": "function"})
    def test_function(self, world_size):
        assert (world_size, os.environ["WHO"]) == (1, "function")

def test_module(world_size):
    assert (world_size, os.environ["WHO"]) == (2, "module")
"""
    )
    run(pytester, source).assert_outcomes(passed=3)


def test_a_bare_mark_is_ours_only_with_a_default_nproc(pytester: pytest.Pytester) -> None:
    source = "import os, pytest\n@pytest.mark.elastic\ndef test_it(): assert os.environ.get('WORLD_SIZE') == '3'\n"
    run(pytester, source).assert_outcomes(failed=1)
    run(pytester, source, "--elastic-nproc=3").assert_outcomes(passed=1)
    pytester.makeini("[pytest]\nelastic_nproc = 3\n")
    run(pytester, source).assert_outcomes(passed=1)
    run(pytester, source, "--elastic-nproc=2").assert_outcomes(failed=1)


def test_plain_tests_before_and_after_keep_their_fixtures(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
log = []

@pytest.fixture(scope="module", autouse=True)
def module():
    log.append("up")
    yield
    log.append("down")

def test_before(): assert log == ["up"]
@pytest.mark.elastic(nproc=2, timeout=60)
def test_ranks(): assert log == ["up"]
def test_after(): assert log == ["up"]
"""
    )
    run(pytester, source).assert_outcomes(passed=3)


def test_rank_fixtures_outside_an_elastic_test_say_so(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(world_size): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("fixture 'world_size' is for tests that run on ranks: mark the test with*")


def test_elastic_launch_inside_an_elastic_test_is_one_line(pytester: pytest.Pytester) -> None:
    source = "import pytest\n@pytest.mark.elastic(nproc=1, timeout=60)\ndef test_it(elastic_launch): pass\n"
    result = run(pytester, source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*elastic_launch* was requested by a test that itself runs on ranks*")


@pytest.mark.soak
def test_spawned_ranks_give_the_same_results(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(nproc=2, timeout=100, start_method="spawn")
def test_bad(rank, world_size, tmp_path):
    assert rank != 1
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("FAILED test_it.py::test_bad - [[]rank 1] assert 1 != 1")


def test_a_module_that_starts_threads_when_imported_is_named_by_the_server_and_runs(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
threading.Thread(target=threading.Event().wait, daemon=True).start()

@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60)
def test_it(rank):
    ones = torch.ones(300, 300) @ torch.ones(300, 300)
    dist.all_reduce(ones)
    assert ones[0, 0] == 600
"""
    )
    run(pytester, source).assert_outcomes(passed=1)


def test_a_module_that_cannot_be_imported_is_pytests_own_error(pytester: pytest.Pytester) -> None:
    source = "import pytest\nraise ImportError('no')\n@pytest.mark.elastic(nproc=2)\ndef test_it(): pass\n"
    result = run(pytester, source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*ImportError: no*")


def test_a_module_that_only_the_server_cannot_import_fails_with_its_traceback(pytester: pytest.Pytester) -> None:
    source = """
import os, pytest
if "PYTEST_ELASTIC_RUN" in os.environ:
    raise ImportError("not here")
@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(): pass
def test_plain(): pass
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("*ImportError: not here*")


def test_restarts_let_the_last_attempt_decide(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(nproc=2, backend="gloo", timeout=60, max_restarts=1)
def test_it(rank):
    if rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os._exit(1)
    dist.barrier()
"""
    )
    run(pytester, source).assert_outcomes(passed=1)


def test_junitxml_durations_and_exitfirst(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(nproc=2, timeout=60)
def test_bad(rank): assert rank != 1
def test_never(): pass
"""
    )
    result = run(pytester, source, "-x", "--junitxml=out.xml", "--durations=3")
    result.assert_outcomes(failed=1)
    xml = Path(pytester.path / "out.xml").read_text()
    assert 'message="[rank 1] assert 1 != 1"' in xml
    assert xml.count("<testcase") == 1


def test_two_runs_of_pytest_in_one_process(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="import pytest\n@pytest.mark.elastic(nproc=2, timeout=60)\ndef test_it(rank):\n    pass\n",
        main="import pytest, psutil\n"
        "first = pytest.main(['-q', '-p', 'no:xdist', 'test_it.py'])\n"
        "left = psutil.Process().children(recursive=True)\n"
        "open('test_it.py', 'a').write('\\n    assert rank != 1\\n')\n"
        "import sys; sys.modules.pop('test_it')\n"
        "second = pytest.main(['-q', '-p', 'no:xdist', 'test_it.py'])\n"
        "print('RESULT', int(first), int(second), left, psutil.Process().children(recursive=True))\n",
    )
    result = pytester.runpython(pytester.path / "main.py")
    result.stdout.fnmatch_lines("RESULT 0 1 [[][]] [[][]]")


def test_output_is_kept_by_phase_also_of_a_rank_that_is_killed(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
import logging, subprocess

@pytest.fixture
def noisy(rank):
    print("set-up of", rank)

@pytest.mark.elastic(nproc=2, timeout=60)
def test_bad(rank, noisy):
    print("printed by", rank)
    subprocess.run(["echo", f"echoed for {rank}"])
    logging.getLogger("it").warning("logged by %s", rank)
    print("to stderr", file=sys.stderr, end="")
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Captured stdout setup (rank 1)*",
            "set-up of 1",
            "*Captured stdout call (rank 1)*",
            "printed by 1",
            "echoed for 1",
            "*Captured stderr call (rank 1)*",
            "to stderr",
            "FAILED test_it.py::test_bad - [[]rank 1[]] killed by SIGKILL",
        ]
    )
    result.stdout.no_fnmatch_line("printed by 0")


def test_capture_fixtures_and_caplog_work_on_ranks(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
import logging
pytestmark = pytest.mark.elastic(nproc=2, timeout=60)

def test_capsys(rank, capsys):
    print("hello", rank)
    assert capsys.readouterr().out == f"hello {rank}\\\\n"

def test_capfd(rank, capfd):
    os.write(1, b"raw")
    assert capfd.readouterr().out == "raw"

def test_caplog(rank, caplog):
    logging.getLogger("it").warning("logged by %s", rank)
    assert caplog.messages == [f"logged by {rank}"]
    assert rank != 1
"""
    )
    result = run(pytester, source.replace("\\\\n", "\\n"))
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*Captured log call (rank 1)*", "WARNING*it:test_it.py:*logged by 1"])


def test_a_rank_that_forks_is_judged_by_what_the_rank_itself_does(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
pytestmark = pytest.mark.elastic(nproc=2, timeout=60)

def test_parent_fails(rank):
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        assert rank != 1, "the parent"

def test_child_fails(rank):
    pid = os.fork()
    if not pid:
        raise ValueError("the child")
    os.waitpid(pid, 0)
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines("FAILED test_it.py::test_parent_fails - [[]rank 1[]] AssertionError: the parent*")


def test_a_teardown_that_fails_while_another_rank_is_in_the_test_fails_the_test(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(nproc=2, timeout=60)
def test_both(rank, request):
    request.addfinalizer(lambda: 1 / 0)
    if rank == 1:
        threading.Event().wait()
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "rank 0 of 2 failed first, * (rank 1 blocked in wait at test_it.py:10, killed)",
            "FAILED test_it.py::test_both - [[]rank 0[]] ZeroDivisionError: division by zero",
        ]
    )


def test_a_rank_that_closes_its_descriptors_is_heard(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(nproc=1, timeout=60)
def test_it(rank):
    os.closerange(3, 4096)
    assert rank == 1, "my text"
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("FAILED test_it.py::test_it - [[]rank 0[]] AssertionError: my text*")


def test_a_rank_that_dies_after_its_test_fails_it(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
from multiprocessing import util

@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank):
    if rank == 1:
        util.Finalize(None, os.kill, (os.getpid(), signal.SIGSEGV), exitpriority=1)
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("ERROR test_it.py::test_it - [[]rank 1[]] killed by SIGSEGV after the test had ended")


def test_without_the_tmpdir_plugin(pytester: pytest.Pytester) -> None:
    source = "import pytest\n@pytest.mark.elastic(nproc=2, timeout=60)\ndef test_it(rank): pass\n"
    run(pytester, source, "-p", "no:tmpdir").assert_outcomes(passed=1)


def test_what_cannot_be_sent_with_a_report_is_dropped_and_named(pytester: pytest.Pytester) -> None:
    source = (
        HEAD
        + """
@pytest.mark.elastic(nproc=2, timeout=60)
def test_it(rank, record_property):
    record_property("lock", threading.Lock())
    assert rank != 1
"""
    )
    result = run(pytester, source)
    result.assert_outcomes(failed=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "*ElasticWarning: record_property('lock') (lock: TypeError) of ranks 0-1 cannot be sent and was dropped",
            "FAILED test_it.py::test_it - [[]rank 1[]] assert 1 != 1",
        ]
    )
