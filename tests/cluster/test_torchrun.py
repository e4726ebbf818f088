"""Sessions that torchrun starts: in the ranks of one node, and on two nodes, also again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .controllers import torchruns
from .test_two_nodes import HEAD, heads, outcomes

IN_PLACE = (
    HEAD
    + """
def layout():
    names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
    with open("ports", "a") as file:
        file.write(f"{os.environ['MASTER_PORT']} {os.environ['PYTEST_CURRENT_TEST'].split('::')[1].split()[0]}\\n")
    assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    return [int(os.environ[name]) for name in names]

@pytest.mark.elastic(nproc=4, backend="gloo", timeout=60)
def test_four(rank, elastic_gather):
    assert layout() == [rank, rank, 0, 4, 4, 1]
    assert len(set(elastic_gather(os.getppid()))) == 4
    dist.barrier()

@pytest.mark.elastic(nproc=2, timeout=60)
def test_two(rank):
    assert layout() == [rank, rank, 0, 2, 2, 1]

@pytest.mark.elastic(nnodes=2, nproc=2, backend="gloo", timeout=60)
def test_two_by_two(rank, local_rank, node_rank):
    assert layout() == [rank, rank % 2, rank // 2, 4, 2, 2]
    assert (local_rank, node_rank) == (rank % 2, rank // 2)
    dist.barrier()

@pytest.mark.elastic(nproc=1, timeout=60)
def test_one(rank):
    layout()

@pytest.mark.elastic(nproc=8)
def test_too_large(rank):
    pass

@pytest.mark.elastic(nnodes="1:2", nproc=1)
def test_between(rank):
    pass

@pytest.mark.elastic(nproc=4, timeout=60)
def test_one_fails_and_others_hang(rank):
    print("this is rank", rank)
    if rank == 2:
        raise ValueError("at once")
    threading.Event().wait()

@pytest.mark.elastic(nproc=4, isolation="module", timeout=60)
def test_kept(rank):
    assert rank != 3

def test_plain():
    pass
"""
)


def test_in_the_ranks_that_are_there(place: Path) -> None:
    (place / "test_it.py").write_text(IN_PLACE)
    with torchruns(place, nproc=4) as session:
        [code] = session.wait()
        assert session.left() == []

    out = session.out
    assert code == 1
    assert outcomes(out) == {
        **dict.fromkeys(("test_four", "test_two", "test_two_by_two", "test_one", "test_plain"), "PASSED"),
        **dict.fromkeys(("test_one_fails_and_others_hang", "test_kept"), "FAILED"),
    }
    assert out.count(" test session starts ") == 1
    assert "elastic: 4 ranks in place (torchrun)" in out
    assert "needs 8 ranks, 4 are there (torchrun)" in out
    assert 'nnodes="1:2" needs nodes that come and go; here one rank each is there (torchrun)' in out
    head = heads(out)["test_one_fails_and_others_hang"]
    assert re.match(r"rank 2 of 4 failed first, after \S+ s: ValueError: at once \(", head), head
    assert "this is rank 2" in out
    ports = {test: port for port, test in map(str.split, (place / "ports").read_text().splitlines())}
    assert len(set(ports.values())) == len(ports) == 4
    assert len((place / "ports").read_text().split()) == 2 * (4 + 2 + 4 + 1)


KILLED = (
    HEAD
    + """
import psutil

def pytest_above():
    process = psutil.Process()
    while not ("-p elastic" in " ".join(process.cmdline()) and "torch.distributed.run" not in process.cmdline()):
        process = process.parent()
    return process
"""
)


@pytest.mark.soak
def test_a_pytest_in_place_that_is_killed(place: Path) -> None:
    text = """
@pytest.mark.elastic(nproc=4, backend="gloo", timeout=60)
def test_before(rank):
    pass

@pytest.mark.elastic(nproc=4, backend="gloo", timeout=60)
def test_lost(rank):
    if rank == 3:
        pytest_above().kill()
    while True:
        dist.all_reduce(torch.tensor(1.0))
        time.sleep(0.01)

@pytest.mark.elastic(nproc=4, backend="gloo", timeout=60)
def test_after(rank):
    pass
"""
    (place / "test_it.py").write_text(KILLED + text)
    with torchruns(place, nproc=4) as session:
        [code] = session.wait()
        assert session.left() == []

    assert code == 1
    head = heads(session.out)
    assert re.match(r"pytest process 3 was lost after \S+ s: its pytest has ended, with rank 3;", head["test_lost"])
    assert outcomes(session.out)["test_before"] == "PASSED"
    assert outcomes(session.out)["test_lost"] == "FAILED"


RESTART = (
    KILLED
    + """
GLOO = pytest.mark.elastic(nnodes=2, nproc=1, backend="gloo", timeout=60)

def ran(what):
    with open("ran", "a") as file:
        file.write(what + "\\n")

@GLOO
def test_first(rank):
    ran(f"first {rank}")

def test_plain():
    ran("plain")

@GLOO
def test_lost(rank):
    if rank == 1:
        ran("lost")
        pytest_above().kill()
    while True:
        dist.all_reduce(torch.tensor(1.0))
        time.sleep(0.01)

@GLOO
def test_fails(rank):
    ran(f"fails {rank}")
    assert rank == 0

@GLOO
def test_last(rank):
    ran(f"last {rank}")
"""
)


@pytest.mark.soak
def test_a_session_goes_on_when_torchrun_has_started_it_again(place: Path) -> None:
    (place / "test_it.py").write_text(RESTART)
    with torchruns(place, count=2, torchrun=["--max-restarts=2"]) as session:
        codes = session.wait()
        assert session.left() == []

    assert all(codes)
    ran = (place / "ran").read_text().splitlines()
    assert sorted(ran) == ["fails 0", "fails 1", "first 0", "first 1", "last 0", "last 1", "lost", "plain"]
    again = session.out.rpartition(" test session starts ")[2]
    assert "record: " in again
    assert outcomes(again) == {
        "test_first": "PASSED",
        "test_plain": "PASSED",
        "test_lost": "FAILED",
        "test_fails": "FAILED",
        "test_last": "PASSED",
    }
    assert " was lost after " in heads(again)["test_lost"]
    assert session.controllers[1].out == ""


@pytest.mark.soak
def test_tests_that_merely_fail_are_not_run_again(place: Path) -> None:
    (place / "test_it.py").write_text(RESTART)
    with torchruns(place, "-k", "not lost", count=2, torchrun=["--max-restarts=2"]) as session:
        codes = session.wait()
        assert session.left() == []

    assert all(codes)
    ran = (place / "ran").read_text().splitlines()
    assert sorted(ran) == ["fails 0", "fails 1", "first 0", "first 1", "last 0", "last 1", "plain"]
    assert session.out.count(" test session starts ") == 1
    assert session.controllers[1].out == ""


@pytest.mark.soak
def test_all_is_well_under_two_torchruns(place: Path) -> None:
    (place / "test_it.py").write_text(RESTART)
    with torchruns(place, "-k", "not lost and not fails", "--junitxml=report.xml", count=2) as session:
        assert session.wait() == [0, 0]
        assert session.left() == []
    assert set(outcomes(session.out).values()) == {"PASSED"}
    assert session.controllers[1].out == ""
