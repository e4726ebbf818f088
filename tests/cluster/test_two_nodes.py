"""Two controllers on this machine that are told by options where they are: one session."""

from __future__ import annotations

import re
import signal
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from .controllers import KILL, Session, ended, nodes, wait_until

HEAD = """
import ctypes, os, signal, sys, threading, time
import pytest
import torch
import torch.distributed as dist

TWO = pytest.mark.elastic(nnodes=2, nproc=1, timeout=60)
"""

OUTCOMES = (
    HEAD
    + """
def here(word):
    print(f"{word} was printed on rank {os.environ['RANK']}")

@TWO
def test_passes(rank, record_property):
    here("this")
    record_property("host", "far" if rank else "near")

@TWO
def test_fails(rank):
    here("that")
    assert rank != 1

@TWO
def test_skips(rank):
    pytest.skip("not today")

@TWO
@pytest.mark.xfail(reason="known", strict=True)
def test_xfails(rank):
    assert rank != 1

@pytest.fixture
def broken(rank):
    if rank == 1:
        raise ValueError("in the setup")

@TWO
def test_setup(rank, broken):
    pass

@pytest.fixture
def torn(rank):
    yield
    if rank == 1:
        raise ValueError("in the teardown")

@TWO
def test_teardown(rank, torn):
    pass

@TWO
def test_exits(rank):
    if rank == 1:
        sys.exit(7)

@TWO
def test_exits_hard(rank):
    if rank == 1:
        os._exit(9)

@TWO
def test_killed(rank):
    here("the last")
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()

@TWO
def test_segfault(rank):
    if rank == 1:
        ctypes.string_at(0)

@pytest.mark.elastic(nnodes=2, nproc=1, timeout=6)
def test_hangs(rank):
    if rank == 1:
        threading.Event().wait()

@pytest.mark.elastic(nnodes=3, nproc=1)
def test_three(rank):
    pass

@pytest.mark.elastic(nnodes=2, nproc=2, backend="gloo", timeout=60)
def test_together(rank, elastic_gather, elastic_barrier, elastic_tmp_path, tmp_path):
    assert elastic_gather(rank * 10) == [0, 10, 20, 30]
    tensor = torch.tensor(rank)
    dist.all_reduce(tensor)
    assert tensor.item() == 6
    (elastic_tmp_path / f"{rank}").write_text("x")
    elastic_barrier()
    assert sorted(p.name for p in elastic_tmp_path.iterdir()) == ["0", "1", "2", "3"]
    assert len(set(elastic_gather(str(tmp_path)))) == 4
    layout = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    assert layout == [f"{rank}", f"{rank % 2}", f"{rank // 2}", "4", "2"]
    assert os.environ["NODE"] == f"{rank // 2}"

@pytest.mark.elastic(nnodes=2, nproc=1, env={"MINE": "set"}, timeout=60)
def test_values(rank, patched, value, factory):
    assert os.environ["MINE"] == "set"
    assert os.environ["PATCHED"] == "yes"
    assert "GONE" not in os.environ
    assert value == {"a": 1}
    assert factory(3) == 4

def test_plain():
    assert os.environ["NODE"] == "0"
    assert "GONE" in os.environ

@pytest.mark.elastic(nproc=1, timeout=60)
def test_one(rank):
    assert os.environ["NODE"] == "0"

@TWO
def test_debugger(rank):
    if rank == 1:
        breakpoint()
"""
)
CONFTEST = """
import pytest
from pytest_elastic import controller_fixture

@controller_fixture
def patched(monkeypatch):
    monkeypatch.setenv("PATCHED", "yes")
    monkeypatch.delenv("GONE")

@controller_fixture
def value():
    return {"a": 1}

@controller_fixture(scope="session")
def factory():
    base = 1
    return lambda n: n + base
"""


def outcomes(out: str) -> dict[str, str]:
    """Return what the short summary says of each test."""
    found = re.findall(r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) \S*::(\w+)", out, re.MULTILINE)
    return {name: outcome for outcome, name in found}


def heads(out: str) -> dict[str, str]:
    """Return the first line of the report of each test that has one."""
    return dict(re.findall(r"^_{3,} (?:ERROR at (?:setup|teardown) of )?(\w+) _{3,}\n(.*)$", out, re.MULTILINE))


@pytest.mark.soak
def test_one_report_of_what_happens_on_both(place: Path) -> None:
    (place / "conftest.py").write_text(CONFTEST)
    (place / "test_it.py").write_text(OUTCOMES)

    with nodes(
        place, "--junitxml=report.xml", "--elastic-log-dir=logs", each=lambda n: {"NODE": f"{n}", "GONE": "1"}
    ) as session:
        codes = session.wait()
        left = session.left()

    out = session.out
    assert codes == [1, 1], out
    assert session.controllers[1].out == ""
    assert session.controllers[1].err == ""
    assert outcomes(out) == {
        "test_passes": "PASSED",
        "test_fails": "FAILED",
        "test_xfails": "XFAIL",
        "test_setup": "ERROR",
        "test_teardown": "ERROR",
        "test_exits": "FAILED",
        "test_exits_hard": "FAILED",
        "test_killed": "FAILED",
        "test_segfault": "FAILED",
        "test_hangs": "FAILED",
        "test_together": "PASSED",
        "test_values": "PASSED",
        "test_plain": "PASSED",
        "test_one": "PASSED",
        "test_debugger": "FAILED",
    }
    head = heads(out)
    for name, reason in {
        "test_fails": "assert 1 != 1",
        "test_setup": "ValueError: in the setup",
        "test_teardown": "ValueError: in the teardown",
        "test_exits": "exited with code 7",
        "test_exits_hard": "exited with code 9",
        "test_killed": "killed by SIGKILL",
        "test_segfault": "killed by SIGSEGV",
    }.items():
        assert re.match(rf"rank 1 of 2 on \S+ failed first, after \S+ s: {reason}", head[name]), head[name]
    assert re.search(
        r"breakpoint at test_it.py:\d+ on rank 1: .* to which this terminal does not reach", head["test_debugger"]
    )
    assert head["test_hangs"] == "timed out after 6 s: test_hangs"
    assert re.search(r"^rank 1 on \S+: in wait at test_it.py:\d+$", out, re.MULTILINE)
    assert re.search(r"rank 0 on \S+: blocked in wait at test_it.py:\d+, killed", out)
    for word, ranks in {"this": "01", "that": "1", "the last": "1"}.items():
        for rank in ranks:
            assert f"{word} was printed on rank {rank}\n" in out
    assert "SKIPPED [1] test_it.py" in out
    assert "needs 3 nodes, 2 are there (options)" in out
    assert left == []
    cases = ElementTree.parse(place / "report.xml").getroot().findall(".//testcase")
    assert len(cases) == len({case.get("name") for case in cases}) == 17
    assert (place / "logs" / "node-1.log").read_text().endswith("released with exit code 1\n")


def run(place: Path, text: str, *options: str, **how: Any) -> tuple[Session, list[int]]:
    """Run a file with tests on two nodes to its end; nothing is left."""
    (place / "test_it.py").write_text(HEAD + text)
    how.setdefault("each", lambda number: {"NODE": f"{number}"})
    with nodes(place, *options, **how) as session:
        codes = session.wait()
        assert session.left() == []
    for other in session.controllers[1:]:
        assert other.out == ""
    return session, codes


PASSES = """
@TWO
def test_it(rank):
    pass
"""


def test_different_tests_are_shown_as_a_difference(place: Path) -> None:
    session, codes = run(
        place,
        """
@pytest.mark.parametrize("n", range(int(os.environ["NODE"]) + 2))
@TWO
def test_it(n, rank):
    pass
""",
    )
    assert codes == [2, 2]
    host = socket.gethostname()
    assert (
        f"""\
Different tests were collected on node 0 ({host}) and node 1 ({host}):
--- node 0 ({host})
+++ node 1 ({host})
@@ -2,0 +3 @@
+test_it.py::test_it[2]
"""
        in session.out
    )
    assert "Interrupted: the nodes have not collected the same tests" in session.out
    assert session.controllers[1].err == ""


@pytest.mark.soak
def test_a_file_that_another_node_cannot_import(place: Path) -> None:
    session, codes = run(place, PASSES + "if os.environ['NODE'] == '1':\n    import nothing_of_that_name\n")
    assert codes == [2, 2]
    assert f"node 1 ({socket.gethostname()}) could not collect its tests:\ntest_it.py: ImportError" in session.out
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in session.out


@pytest.mark.soak
def test_another_key_is_told_on_both_sides(place: Path) -> None:
    session, codes = run(
        place, PASSES, "--elastic-join-timeout=8", each=lambda number: {"PYTEST_ELASTIC_KEY": f"{number}" * 32}
    )
    assert codes == [4, 4]
    advice = "set PYTEST_ELASTIC_KEY to the same secret on every node"
    assert (
        "ERROR: elastic: node 1 did not come within 8 s; 127.0.0.1 called without the key of this run: "
        f"{advice}\n" in session.first.err
    )
    assert re.search(
        rf"ERROR: elastic: node 1 could not reach the first controller at 127\.0\.0\.1:\d+ within \d+ s: .*{advice}\n",
        session.controllers[1].err,
    )


@pytest.mark.soak
def test_one_that_does_not_come(place: Path) -> None:
    session, codes = run(place, PASSES, "--elastic-join-timeout=2", only=[0])
    assert codes == [4]
    assert session.first.err.strip() == "ERROR: elastic: node 1 did not come within 2 s"


def test_a_first_one_that_does_not_come(place: Path) -> None:
    session, codes = run(place, PASSES, "--elastic-join-timeout=2", only=[1])
    assert codes == [4]
    assert re.fullmatch(
        r"ERROR: elastic: node 1 could not reach the first controller at 127\.0\.0\.1:\d+ within \d s: "
        "connection refused",
        session.first.err.strip(),
    )


@pytest.mark.soak
def test_too_few_nodes_fail_where_that_is_asked_for(place: Path) -> None:
    session, codes = run(place, "@pytest.mark.elastic(nnodes=3)\ndef test_it(rank):\n    pass\n", "--elastic-strict")
    assert codes == [1, 1]
    assert "Failed: needs 3 nodes, 2 are there (options)" in session.out


LOST = """
GLOO = pytest.mark.elastic(nnodes=2, nproc=1, backend="gloo", timeout=60)

@GLOO
def test_before(rank):
    pass

@GLOO
def test_lost(rank):
    if rank == 1:
        open("in", "w").close()
    while True:
        dist.all_reduce(torch.tensor(1.0))
        time.sleep(0.01)

@GLOO
def test_after(rank):
    pass

@pytest.mark.elastic(nproc=2, timeout=60)
def test_here(rank):
    pass

def test_plain():
    pass
"""


@contextmanager
def in_the_lost_test(place: Path, *options: str) -> Iterator[Session]:
    """Run the tests above until one is in its middle."""
    (place / "test_it.py").write_text(HEAD + LOST)
    with nodes(place, "-v", *options) as session:
        wait_until((place / "in").exists)
        yield session


def test_a_node_that_is_killed(place: Path) -> None:
    with in_the_lost_test(place, "--elastic-node-timeout=2") as session:
        lost = session.controllers[1]
        family = lost.family()
        lost.signal(KILL)
        assert ended(family)
        assert session.wait()[0] == 1
        assert session.left() == []

    assert outcomes(session.out) == {
        "test_before": "PASSED",
        "test_lost": "FAILED",
        "test_after": "ERROR",
        "test_here": "PASSED",
        "test_plain": "PASSED",
    }
    host = re.escape(socket.gethostname())
    head = heads(session.out)
    assert re.match(
        rf"node 1 \({host}\) was lost after \S+ s: its pytest has ended, with rank 1; rank 0 on ", head["test_lost"]
    )
    assert head["test_after"] == (
        f"needs 2 nodes, 1 of 2 are left: node 1 ({socket.gethostname()}) was lost (its pytest has ended)"
    )


@pytest.mark.soak
@pytest.mark.parametrize("everything", [False, True], ids=["its pytest", "all of it"])
def test_a_node_that_falls_silent_and_comes_back(place: Path, everything: bool) -> None:
    with in_the_lost_test(place, "--elastic-node-timeout=6", "--elastic-log-dir=logs") as session:
        lost = session.controllers[1]
        stopped = lost.family() if everything else lost.family()[:1]
        for process in stopped:
            with suppress(psutil.NoSuchProcess):  # one that was about to end
                process.suspend()
        wait_until(lambda: "test_lost FAILED" in session.out)
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        assert session.wait() == [1, 1]
        assert session.left() == []

    assert outcomes(session.out) == {
        "test_before": "PASSED",
        "test_lost": "FAILED",
        "test_after": "PASSED",
        "test_here": "PASSED",
        "test_plain": "PASSED",
    }
    assert re.search(r"was lost after \S+ s: nothing was heard of it for \d+ s, with rank 1;", session.out)
    assert "the first controller is there again" in (place / "logs" / "node-1.log").read_text()
    assert lost.out == lost.err == ""


@pytest.mark.soak
def test_the_first_one_is_killed(place: Path) -> None:
    with in_the_lost_test(place) as session:
        family = [each for one in session.controllers for each in one.family()]
        session.first.signal(KILL)
        other = session.controllers[1]
        ranks = [each for each in family if each.pid not in (session.first.process.pid, other.process.pid)]
        assert ended(ranks)
        assert session.wait() == [-9, 3]
        assert session.left() == []
    assert other.err == (
        "elastic: node 1: the first controller was lost (its pytest has ended) and is not there any more\n"
    )


@pytest.mark.soak
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 2)])
def test_the_first_one_is_ended(place: Path, signum: int, code: int) -> None:
    with in_the_lost_test(place) as session:
        session.first.signal(signum)
        assert session.wait() == [code, code]
        assert session.left() == []
    assert session.controllers[1].out == session.controllers[1].err == ""


@pytest.mark.soak
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 2)])
def test_another_one_is_ended(place: Path, signum: int, code: int) -> None:
    with in_the_lost_test(place, "--elastic-node-timeout=2") as session:
        family = session.controllers[1].family()
        session.controllers[1].signal(signum)
        assert ended(family)
        assert session.wait() == [1, code]
        assert session.left() == []
    assert outcomes(session.out)["test_lost"] == "FAILED"


KEPT = """
pytestmark = pytest.mark.elastic(nnodes=2, nproc=1, backend="gloo", timeout=60, isolation="module")
seen = []

@pytest.fixture(scope="module")
def once(rank):
    seen.append(os.getpid())
    return len(seen)

def test_a(rank, once):
    print("a was on", rank)
    assert once == 1
    assert os.environ["NODE"] == str(rank)

def test_b(rank, once, elastic_gather):
    assert (once, seen) == (1, [os.getpid()])
    assert elastic_gather(os.getpid())[rank] == os.getpid()

def test_c(rank, once):
    print("c was on", rank)
    assert rank != 1

def test_d(rank, once):
    if rank == 1:
        os._exit(3)
    dist.barrier()

def test_e(rank, once):
    assert once == 1
"""
WHOLE = """
pytestmark = pytest.mark.elastic(nnodes=2, nproc=1, timeout=60, isolation="session")

def test_f(rank):
    assert os.environ["NODE"] == str(rank)

def test_g(rank):
    assert rank == 2

def test_h(rank):
    pass
"""


@pytest.mark.soak
def test_ranks_that_are_kept(place: Path) -> None:
    (place / "test_whole.py").write_text(HEAD + WHOLE)
    session, codes = run(place, KEPT, "--maxfail=3")
    assert codes == [1, 1]
    assert outcomes(session.out) == {
        **dict.fromkeys(("test_a", "test_b", "test_e", "test_f"), "PASSED"),
        **dict.fromkeys(("test_c", "test_d", "test_g"), "FAILED"),
    }
    assert "a was on 1" in session.out
    assert "c was on 1" in session.out
    assert "exited with code 3 before the test ended" in heads(session.out)["test_d"]


@pytest.mark.soak
def test_every_rendezvous_restarts_faults_and_fresh_interpreters(place: Path) -> None:
    outside = place.parent / "test_outside.py"
    outside.write_text(HEAD + PASSES.replace("test_it", "test_outside"))
    (place / "test_it.py").write_text("")
    session, codes = run(
        place,
        """
from pytest_elastic import KillRank

def on(backend):
    mark = pytest.mark.elastic(nnodes=2, nproc=1, backend="gloo", rdzv_backend=backend, timeout=60)
    return pytest.param(backend, marks=mark)

@pytest.mark.parametrize("backend", [on("c10d"), on("static"), on("etcd-v2")])
def test_rendezvous(backend, rank, elastic_gather):
    tensor = torch.tensor(1)
    dist.all_reduce(tensor)
    assert tensor.item() == 2
    assert sorted(elastic_gather(os.environ["NODE"])) == ["0", "1"]  # torch numbers them

@pytest.mark.elastic(nnodes=2, nproc=1, max_restarts=1, backend="gloo", timeout=60)
def test_restart(rank):
    if rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise ValueError("the first time")
    dist.barrier()

FAULT = [KillRank(1, when_output="here")]

@pytest.mark.elastic(nnodes=2, nproc=1, max_restarts=1, backend="gloo", rdzv_backend="c10d", timeout=60, faults=FAULT)
def test_fault_and_restart(rank):
    while os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        dist.barrier()
        print("here", flush=True)
        time.sleep(0.01)
    dist.barrier()

@pytest.mark.elastic(nnodes=2, nproc=1, timeout=60, faults=FAULT)
def test_fault(rank):
    print("here", flush=True)
    threading.Event().wait()

@pytest.mark.elastic(nnodes=2, nproc=1, start_method="spawn", timeout=60)
def test_spawn(rank):
    assert os.environ["NODE"] == str(rank)
""",
        "--rootdir=.",
        "test_it.py",
        str(outside),
    )
    assert codes == [1, 1]
    found = outcomes(session.out)
    assert found.pop("test_fault") == "FAILED"
    assert set(found.values()) == {"PASSED"}, session.out
    assert len(found) == 5  # the three of one function are one here
    assert session.out.count("PASSED test_it.py::test_rendezvous") == 3
    assert re.match(
        r"rank 1 of 2 on \S+ failed first, after \S+ s: killed by SIGKILL", heads(session.out)["test_fault"]
    )


@pytest.mark.soak
def test_output_as_it_comes_and_coverage_of_both(place: Path) -> None:
    (place / "lib.py").write_text(
        "def work(rank):\n    if rank == 1:\n        found = 1\n        return found\n    return 3\n"
    )
    session, codes = run(
        place,
        """
import lib

@TWO
def test_it(rank):
    print("said on", rank, flush=True)
    lib.work(rank)
""",
        *("-s", "-p", "pytest_cov", "--cov=lib", "--cov-report=term-missing"),
    )
    assert codes == [0, 0]
    assert "[rank 0] said on 0" in session.out
    assert "[rank 1] said on 1" in session.out
    assert re.search(r"^lib\.py +5 +0 +100%$", session.out, re.MULTILINE)
    assert sorted(path.name for path in place.glob(".coverage*")) == [".coverage"]


PACKED = """
def together(name, other):  # which cannot be if they run one after the other
    open(f"began-{name}", "w").close()
    until = time.monotonic() + 40
    while not os.path.exists(f"began-{other}"):
        assert time.monotonic() < until, f"{other} does not run at the same time"
        time.sleep(0.01)

@pytest.mark.elastic(nproc=1, timeout=60)
def test_fails(rank):
    together("here", "there")
    assert rank == 2

@pytest.mark.elastic(nproc=1, timeout=60)
def test_fails_too(rank):
    together("there", "here")
    print("it was on node", os.environ["NODE"])
    assert rank == 3

@pytest.mark.parametrize("n", range(3))
@pytest.mark.elastic(nproc=1, timeout=60)
def test_one(n, rank):
    pass

@pytest.mark.elastic(nproc=1, nnodes=2, timeout=60)
def test_both(rank):
    assert rank != 1

def test_plain():
    assert os.environ["NODE"] == "0"
"""


def test_tests_run_side_by_side(place: Path) -> None:
    session, codes = run(place, PACKED, "--elastic-pack")
    assert codes == [1, 1]
    assert session.out.count("PASSED test_it.py::test_one[") == 3
    assert outcomes(session.out) == {
        "test_fails": "FAILED",
        "test_fails_too": "FAILED",
        "test_one": "PASSED",
        "test_both": "FAILED",
        "test_plain": "PASSED",
    }
    assert "it was on node 1" in session.out
    assert "assert 0 == 2" in session.out
    assert "assert 0 == 3" in session.out


@pytest.mark.soak
def test_what_runs_ahead_is_ended_with_the_session(place: Path) -> None:
    session, codes = run(
        place,
        """
@pytest.mark.elastic(nproc=1, timeout=60)
def test_fails(rank):
    until = time.monotonic() + 40
    while not os.path.exists("began"):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert rank == 2

@pytest.mark.elastic(nproc=1)
def test_waits(rank):
    open("began", "w").close()
    threading.Event().wait()
""",
        "--elastic-pack",
        "-x",
    )
    assert codes == [1, 1]
    assert outcomes(session.out) == {"test_fails": "FAILED"}
    assert "1 failed in " in session.out


@pytest.mark.soak
def test_a_node_that_is_lost_with_what_runs_ahead(place: Path) -> None:
    text = """
@pytest.mark.elastic(nproc=1, timeout=60)
def test_first(rank):
    while not os.path.exists("killed"):
        time.sleep(0.01)

@pytest.mark.elastic(nproc=1, timeout=60)
def test_ahead(rank):
    open("in", "w").close()
    threading.Event().wait()

@pytest.mark.elastic(nproc=1, timeout=60)
def test_after(rank):
    pass
"""
    (place / "test_it.py").write_text(HEAD + text)
    with nodes(place, "--elastic-pack") as session:
        wait_until((place / "in").exists)
        session.controllers[1].signal(KILL)
        (place / "killed").touch()
        assert session.wait() == [1, -9]
        assert session.left() == []
    assert outcomes(session.out) == {"test_first": "PASSED", "test_ahead": "FAILED", "test_after": "PASSED"}
    assert re.match(r"node 1 \(.+\) was lost after \S+ s: its pytest has ended", heads(session.out)["test_ahead"])
