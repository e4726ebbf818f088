"""Ranks that are kept for more than one test: what they share, what ends them, and what a test leaves behind."""

from __future__ import annotations

import re
import sys

import pytest

HEAD = """
import ctypes, os, subprocess, sys, threading, time
import pytest
import torch
import torch.distributed as dist

def elastic(**arguments): return pytest.mark.elastic(**{"nproc": 2, "timeout": 60, **arguments})
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.run(sys.executable, "-m", "pytest", *args)


def outcomes(result: pytest.RunResult) -> dict[str, str]:
    """Name of each test to its outcome, as ``-v`` tells it; an error comes after the outcome of the call."""
    lines = re.findall(r"^\S+?::(\S+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)", result.stdout.str(), re.MULTILINE)
    return {name: " ".join(outcome for other, outcome in lines if other == name) for name, _ in lines}


def warnings_of(result: pytest.RunResult) -> list[tuple[str, str]]:
    """Name of the test and text of each warning of ours."""
    text = result.stdout.str()
    found = []
    test = ""
    for line in text.partition("warnings summary")[2].splitlines():
        if match := re.match(r"^\S+::(\S+)$", line):
            test = match[1]
        elif match := re.match(r"^  \S+: ElasticWarning: (.*)$", line):
            found.append((test, re.sub(r"process \d+", "process N", match[1])))
    return sorted(found)


def test_what_tests_of_one_module_share(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
pytestmark = elastic(backend="gloo", isolation="module")
SEEN = []

@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    print("module fixture is set up")
    os.environ["WIDE"], before = "1", os.getcwd()
    os.chdir(tmp_path_factory.mktemp("wide"))
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield os.getpid()
    child.communicate(b"x")
    end.set()
    thread.join()
    os.chdir(before)
    del os.environ["WIDE"]
    print("module fixture is torn down")

@pytest.fixture(scope="class")
def narrower():
    SEEN.append("class up")
    yield
    SEEN.append("class down")

class TestOne:
    def test_1(self, wide, narrower): SEEN.append(wide)
    def test_2(self, wide, narrower, rank, world_size, elastic_gather):
        assert SEEN == ["class up", os.getpid()] and wide == os.getpid()
        total = torch.tensor(rank)
        dist.all_reduce(total)
        assert (total.item(), world_size, elastic_gather(rank)) == (1, 2, [0, 1])

def test_3(wide, tmp_path, elastic_tmp_path, elastic_barrier, rank):
    assert SEEN[-1] == "class down" and os.environ["WIDE"] and tmp_path.name.startswith("test_3")
    (elastic_tmp_path / str(rank)).touch()
    elastic_barrier()
    assert sorted(os.listdir(elastic_tmp_path)) == ["0", "1"]
    print("only of test_3")

def test_4(elastic_tmp_path, capsys):
    assert not os.listdir(elastic_tmp_path)
    print("captured")
    assert capsys.readouterr().out == "captured\\n"

def test_plain_ones_between_do_not_matter(): pass
test_plain_ones_between_do_not_matter.pytestmark = []

@pytest.mark.parametrize("free", ["first", "second"])
def test_ports(free_port_factory, elastic_gather, free):
    ports = free_port_factory(2)
    assert elastic_gather(ports) == [ports, ports]
    assert not set(ports) & set(SEEN)
    SEEN.extend(ports)

@pytest.mark.xfail(reason="known", strict=True)
def test_known_bug(rank): assert rank == 0

def test_fresh_ranks_after_a_failure(wide): assert SEEN == []

def test_fails_with_its_own_output_only():
    print("only of the last")
    assert False
""",
        test_other=HEAD
        + """
@elastic(isolation="module")
def test_other_module(): assert "test_it" not in sys.modules or not sys.modules["test_it"].SEEN
""",
    )
    result = run(pytester, "-v")
    assert outcomes(result) == {
        "TestOne::test_1": "PASSED",
        "TestOne::test_2": "PASSED",
        "test_3": "PASSED",
        "test_4": "PASSED",
        "test_plain_ones_between_do_not_matter": "PASSED",
        "test_ports[first]": "PASSED",
        "test_ports[second]": "PASSED",
        "test_known_bug": "XFAIL",
        "test_fresh_ranks_after_a_failure": "PASSED",
        "test_fails_with_its_own_output_only": "FAILED",
        "test_other_module": "PASSED",
    }
    assert warnings_of(result) == []
    output = result.stdout.str()
    assert "only of the last" in output
    assert "only of test_3" not in output
    assert "is set up" not in output
    assert output.count("module fixture is torn down") == 2  # in the teardown of the test that failed, on each rank


LEAKS = """
pytestmark = elastic(backend="gloo", isolation="module")
def test_environment(): os.environ["LEFT"] = "1"
def test_environment_is_back(): assert "LEFT" not in os.environ
def test_directory(tmp_path): os.chdir(tmp_path)
def test_directory_is_back(): assert "test_directory" not in os.getcwd()
def test_daemon(): threading.Thread(target=time.sleep, args=(1000,), name="daemonic", daemon=True).start()
def test_daemon_is_told_once(): assert "daemonic" in [thread.name for thread in threading.enumerate()]
def test_child(): subprocess.Popen(["sleep", "1000"])
def test_destroys(): dist.destroy_process_group()
def test_group_is_there(): dist.barrier()
def test_replaces():
    dist.destroy_process_group()
    dist.init_process_group("gloo")
def test_group_is_the_right_one(process_group): dist.barrier(process_group)
def test_monkeypatch(monkeypatch, tmp_path):
    monkeypatch.setenv("LEFT", "1")
    monkeypatch.chdir(tmp_path)
def test_own_threads_end():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
"""


def test_what_a_test_leaves_changed_is_told_and_kept_from_the_next(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(HEAD + LEAKS)
    result = run(pytester, "-v")
    assert set(outcomes(result).values()) == {"PASSED"}
    assert len(outcomes(result)) == 13
    kept = "the default process group that is kept for other tests"
    assert warnings_of(result) == [
        ("test_child", "rank 0 left process N (sleep 1000) behind; it was ended"),
        ("test_child", "rank 1 left process N (sleep 1000) behind; it was ended"),
        ("test_daemon", "ranks 0-1 left daemon thread 'daemonic' behind"),
        ("test_destroys", f"ranks 0-1 destroyed {kept}"),
        ("test_directory", "ranks 0-1 left the working directory changed, which was put back"),
        ("test_environment", "ranks 0-1 left the environment changed (LEFT), which was put back"),
        ("test_replaces", f"ranks 0-1 replaced {kept}"),
    ]


def test_ranks_that_fail_hang_die_or_disagree_are_not_used_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=HEAD
        + """
pytestmark = elastic(isolation="session")
PIDS = []
def fresh():
    PIDS.append(os.getpid())
    return PIDS == [os.getpid()]
def test_fails(rank):
    assert fresh()
    assert rank == 0
def test_hangs(rank):
    if rank == 1: threading.Event().wait()
    assert fresh()
test_hangs.pytestmark = [elastic(timeout=1, isolation="session")]
def test_dies(rank):
    assert fresh()
    if rank == 1: os._exit(0)
def test_disagrees(rank):
    assert fresh()
    if rank == 1: pytest.skip("not here")
def test_skips_alike():
    assert fresh()
    pytest.skip("none")
def test_uses_those_that_skipped(): assert not fresh()
def test_teardown_fails(request, rank):
    assert not fresh()
    request.addfinalizer(lambda: 1 / (1 - rank))
def test_dies_while_it_waits(rank, request):
    assert fresh()
    if rank == 1:
        (request.config.rootpath / "pid").write_text(str(os.getpid()))
        threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), 9)), daemon=True).start()
def test_wants_the_same_ranks(): assert fresh()
""",
        conftest="""
import contextlib
import psutil
def pytest_runtest_logstart(nodeid):
    if "wants_the_same" in nodeid:
        pid = int(open("pid").read())
        with contextlib.suppress(psutil.NoSuchProcess): psutil.Process(pid).wait(30)
""",
    )
    result = run(pytester, "-v")
    assert outcomes(result) == {
        "test_fails": "FAILED",
        "test_hangs": "FAILED",
        "test_dies": "FAILED",
        "test_disagrees": "FAILED",
        "test_skips_alike": "SKIPPED",
        "test_uses_those_that_skipped": "PASSED",
        "test_teardown_fails": "PASSED ERROR",
        "test_dies_while_it_waits": "PASSED",
        "test_wants_the_same_ranks": "PASSED ERROR",
    }
    result.stdout.fnmatch_lines(
        [
            "FAILED *::test_fails - [[]rank 1] assert 1 == 0",
            "FAILED *::test_hangs - timed out after 1 s*",
            "FAILED *::test_dies - [[]rank 1] exited with code 0 before the test *",
            "FAILED *::test_disagrees - the ranks disagree: rank 1 skipped*",
            "ERROR *::test_teardown_fails - [[]rank 1] ZeroDivisionError: *",
            "ERROR *::test_wants_the_same_ranks - Failed: ranks that were kept*",
        ]
    )
    result.stdout.fnmatch_lines(["ranks that were kept were lost between tests: [[]rank 1] killed by SIGKILL after *"])
    assert "All traceback entries are hidden" not in result.stdout.str()
    assert [test for test, _ in warnings_of(result)] == ["test_dies_while_it_waits"]


def test_fixtures_of_a_session_are_torn_down_where_they_are_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_a=HEAD
        + """
pytestmark = elastic(isolation="session")
def test_a1(once): assert once == os.getpid()
""",
        test_b=HEAD
        + """
pytestmark = elastic(isolation="session")
@pytest.fixture(scope="module", autouse=True)
def module(value_of_controller): yield value_of_controller
def test_b1(once, module): assert (once, module) == (os.getpid(), 42)
def test_b2(): pass
""",
        test_c="def test_c1(): assert False",
        conftest="""
import os, pytest, pytest_elastic
@pytest.fixture(scope="session")
def once():
    yield os.getpid()
    raise ValueError("torn down at last")
@pytest_elastic.controller_fixture(scope="module")
def value_of_controller(): return 42
""",
    )
    result = run(pytester, "-v")
    assert outcomes(result) == {
        "test_a1": "PASSED",
        "test_b1": "PASSED",
        "test_b2": "PASSED ERROR",
        "test_c1": "FAILED",
    }
    result.stdout.fnmatch_lines(["ERROR *::test_b2 - [[]rank *] ValueError: torn down at last"])
    assert "runner.py" not in result.stdout.str()
    # Where the session stops before the last of the tests that share ranks, the last that ran tells it.
    result = run(pytester, "-x", "test_a.py", "test_c.py", "test_b.py")
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["ranks that were kept did not end well: [[]rank *] ValueError: torn down at last"])
    # A worker of pytest-xdist knows only its next test.
    result = run(pytester, "-n", "2", "--dist", "loadfile", "test_a.py", "test_b.py")
    assert result.ret == 1
    result.assert_outcomes(passed=3, errors=2)


def test_ranks_leave_the_scopes_that_pytest_leaves(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nelastic_grace = 0.5\n")
    pytester.makepyfile(
        test_a=HEAD
        + """
class TestScope:
    @pytest.fixture(scope="class")
    def narrow(self, rank):
        os.environ["NARROW"] = "1"
        yield
        del os.environ["NARROW"]
        assert rank == 0, "narrow broke"
    @elastic(isolation="session")
    def test_1(self, narrow): pass
    def test_plain_one_is_the_last_of_its_class(self): pass
@elastic(isolation="session")
def test_2(): assert "NARROW" not in os.environ
@elastic(isolation="session")
def test_changes_it_too(): os.environ["NARROW"] = "2"
@elastic(isolation="session")
def test_it_is_as_it_should_be(): assert "NARROW" not in os.environ
def test_plain_one_is_the_last_of_its_file(): pass
""",
        test_b=HEAD
        + """
import signal
@elastic(isolation="session", timeout=1)
def test_3(): pass

def interrupt(*args): raise LookupError
@elastic(isolation="session")
def test_interrupts_a_call(rank, elastic_barrier):
    if rank == 0:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(LookupError): elastic_barrier()
    else:
        while not os.path.exists("interrupted"): time.sleep(0.01)
        elastic_barrier()
    open("interrupted", "w").close()

@pytest.fixture(scope="module")
def slow():
    yield
    time.sleep(1.5)  # longer than the deadline of the test that started these ranks
@elastic(isolation="session", timeout=1)
def test_4(): pass
@elastic(isolation="session")
def test_is_not_measured_by_another_deadline(slow): threading.Thread(target=time.sleep, args=(100,)).start()

@elastic(isolation="module", backend="gloo")
def test_one_returns_early(rank):
    if rank == 1: dist.barrier()
@elastic(isolation="module", backend="gloo")
def test_5(): dist.barrier()
@elastic(isolation="module", backend="gloo")
@pytest.mark.skip
def test_last_of_its_file_is_skipped(): pass
""",
    )
    result = run(pytester, "-v")
    assert outcomes(result) == {
        "TestScope::test_1": "PASSED",
        "TestScope::test_plain_one_is_the_last_of_its_class": "PASSED ERROR",
        "test_2": "PASSED",
        "test_changes_it_too": "PASSED",
        "test_it_is_as_it_should_be": "PASSED",
        "test_plain_one_is_the_last_of_its_file": "PASSED",
        "test_3": "PASSED",
        "test_interrupts_a_call": "PASSED",
        "test_4": "PASSED",
        "test_is_not_measured_by_another_deadline": "PASSED",
        "test_one_returns_early": "FAILED",
        "test_5": "PASSED",
        "test_last_of_its_file_is_skipped": "SKIPPED",
    }
    result.stdout.fnmatch_lines(
        [
            "ranks that were kept did not tear down well: [[]rank 1] AssertionError: narrow broke*",
            "the ranks disagree: rank 1 lost a peer in barrier at test_b.py:* (collateral); rank 0 passed",
        ]
    )
    assert [(test, told.partition(";")[0]) for test, told in warnings_of(result)] == [
        ("test_changes_it_too", "ranks 0-1 left the environment changed (NARROW), which was put back"),
        ("test_interrupts_a_call", "rank 0 left a call of elastic_barrier that was interrupted"),
        ("test_is_not_measured_by_another_deadline", "rank 0 left thread 'Thread-1 (sleep)' behind"),
        ("test_is_not_measured_by_another_deadline", "rank 1 left thread 'Thread-1 (sleep)' behind"),
    ]


def test_each_test_may_make_its_own_group(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD
        + """
@elastic(isolation="module", nproc=3)
@pytest.mark.parametrize("members", [1, 2, 3, 2, 1])
def test_group(members, rank):
    if rank < members:
        dist.init_process_group("gloo", rank=rank, world_size=members)
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == members
        dist.destroy_process_group()

@elastic(isolation="module", nnodes=2, nproc=1, backend="gloo")
@pytest.mark.parametrize("turn", range(2))
def test_nodes(node_rank, turn):
    total = torch.tensor(node_rank)
    dist.all_reduce(total)
    assert total.item() == 1

@elastic(isolation="module", start_method="spawn", nproc=1)
@pytest.mark.parametrize("turn", range(2))
def test_spawned(turn, request):
    request.session.turns = getattr(request.session, "turns", 0) + 1
    assert request.session.turns == turn + 1
"""
    )
    result = run(pytester)
    result.assert_outcomes(passed=9)


def test_tests_that_share_ranks_follow_each_other_if_asked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        HEAD
        + """
@elastic(isolation="module", nproc=[1, 2])
@pytest.mark.parametrize("x", "ab")
def test_x(x): pass
def test_plain(): pass
@elastic(isolation="module", nproc=1)
def test_y(): pass
@elastic(nproc=1)
def test_z(): pass
@elastic(isolation="module", nproc=1, timeout=5)
def test_w(): pass
"""
    )
    before = [
        "test_x[a-nproc=1]",
        "test_x[a-nproc=2]",
        "test_x[b-nproc=1]",
        "test_x[b-nproc=2]",
        *["plain", "y", "z", "w"],
    ]
    for args, after in (
        ([], [0, 1, 2, 3, 4, 5, 6, 7]),
        (["--elastic-group"], [0, 2, 5, 7, 1, 3, 4, 6]),
    ):
        result = run(pytester, "--collect-only", "-q", *args)
        names = re.findall(r"::(?:test_(?=[pyzw]))?(\S+)", result.stdout.str())
        assert names == [before[number] for number in after]
