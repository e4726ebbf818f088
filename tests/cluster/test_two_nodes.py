"""Two controllers on this machine that are told by options where they are: one session."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from .controllers import Session, ended, nodes, wait_until

HEAD = """
import ctypes, os, signal, sys, threading, time
import pytest
import torch
import torch.distributed as dist

TWO = pytest.mark.elastic(nnodes=2, nproc=1, timeout=60)
"""

OUTCOMES = HEAD + """
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
    found = re.findall(r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) \S+::(\w+)", out, re.MULTILINE)
    return {name: outcome for outcome, name in found}


def heads(out: str) -> dict[str, str]:
    """Return the first line of the report of each test that has one."""
    return dict(re.findall(r"^_{3,} (?:ERROR at (?:setup|teardown) of )?(\w+) _{3,}\n(.*)$", out, re.MULTILINE))


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
    assert len(cases) == len({case.get("name") for case in cases}) + 1 or len(cases) == 17
    assert (place / "logs" / "node-1.log").read_text().endswith("released with exit code 1\n")
