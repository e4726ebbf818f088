"""What ranks of a marked test have in common: values, barriers, a directory, ports, etcd."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HEAD = """
import os, threading, time
import pytest
import torch

E = pytest.mark.elastic(nproc=2, timeout=60)
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PY_COLORS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    # Other plugins that happen to be installed shuffle tests, or warn.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=HEAD + source)
    return pytester.runpytest_subprocess("-p", "elastic", *args)


WORKS = """
@pytest.mark.elastic(nproc=4, timeout=60)
def test_gather(elastic_gather, rank):
    assert elastic_gather(rank) == [0, 1, 2, 3]
    assert elastic_gather(None) == [None] * 4
    assert [f(10) for f in elastic_gather(lambda x: x + rank)] == [10, 11, 12, 13]
    class Mine:
        number = rank
    assert [one.number for one in elastic_gather(Mine())] == [0, 1, 2, 3]
    assert len(set(elastic_gather(os.getpid()))) == 4
    for i in range(200):
        assert elastic_gather((i, rank)) == [(i, r) for r in range(4)]

@E
def test_100_mb(elastic_gather, rank):
    values = elastic_gather(torch.full((26_214_400,), float(rank)))
    assert [value[-1].item() for value in values] == [0.0, 1.0]
    assert len(values[0]) == len(values[1]) == 26_214_400

@E
def test_barrier(elastic_barrier, elastic_tmp_path, rank):
    (elastic_tmp_path / str(rank)).touch()
    elastic_barrier()
    assert sorted(os.listdir(elastic_tmp_path)) == ["0", "1"]
    elastic_barrier()

@E
def test_directories(elastic_tmp_path, tmp_path, elastic_gather):
    assert len(set(elastic_gather(elastic_tmp_path))) == 1
    assert len(set(elastic_gather(tmp_path))) == 2
    assert os.listdir(elastic_tmp_path) == []

@pytest.fixture
def around(elastic_gather, elastic_barrier, rank):
    assert elastic_gather(rank) == [0, 1]
    yield
    elastic_barrier()
    assert elastic_gather("end") == ["end"] * 2

class TestInClass:
    @E
    def test_in_fixtures_and_threads(self, around, elastic_gather, rank):
        got = []
        thread = threading.Thread(target=lambda: got.append(elastic_gather(rank)))
        thread.start()
        thread.join()
        assert got == [[0, 1]]

@pytest.mark.elastic(nproc=2, timeout=60, max_restarts=1)
def test_a_restart_begins_anew(elastic_gather, elastic_barrier, elastic_tmp_path, rank):
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    assert elastic_gather((attempt, rank)) == [(attempt, 0), (attempt, 1)]
    (elastic_tmp_path / f"{attempt}-{rank}").touch()
    elastic_barrier()
    if attempt == 0 and rank == 1:
        raise RuntimeError("once")
    if attempt == 0:
        elastic_gather("never answered")
    assert elastic_gather(attempt) == [1, 1]
    assert (elastic_tmp_path / "0-0").exists()

@pytest.mark.elastic(nproc=2, timeout=100, start_method="spawn")
def test_spawned(elastic_gather, elastic_tmp_path, free_port, rank):
    assert elastic_gather(rank) == [0, 1]
    assert len(set(elastic_gather((elastic_tmp_path, free_port)))) == 1

@E
@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has no subtests")
def test_subtests_do_not_end_a_rank(elastic_gather, rank, request):
    subtests = request.getfixturevalue("subtests")
    with subtests.test("one"):
        assert elastic_gather(rank) == [0, 1]
    with subtests.test("two"):
        pass
    assert elastic_gather(rank) == [0, 1]

@E
def test_ports(free_port, free_port_factory, free_socket, elastic_gather, rank):
    assert len(set(elastic_gather(free_port))) == 1
    calls = elastic_gather([free_port_factory(2), free_port_factory(n=1)])
    assert calls[0] == calls[1]
    assert len({free_port, *calls[0][0], *calls[0][1]}) == 4
    numbers = elastic_gather(free_socket.getsockname()[1])
    assert len({free_port, *numbers}) == 3
    with pytest.raises(Exception, match="ints? from 1 on"):
        free_port_factory(0)

@E
def test_etcd(etcd_server, elastic_barrier, elastic_gather, rank):
    assert len(set(elastic_gather(etcd_server.pid))) == 1
    etcd_server.client.write(f"/of-ranks/{rank}", str(rank))
    elastic_barrier()
    assert sorted(leaf.value for leaf in etcd_server.client.read("/of-ranks").children) == ["0", "1"]

def test_the_same_etcd_in_a_plain_test(etcd_server):
    assert etcd_server.client.read("/of-ranks/1").value == "1"

@E
def test_private_etcd(etcd_server_factory, elastic_gather, elastic_barrier, rank):
    server = etcd_server_factory(timeout=20.0)
    assert len(set(elastic_gather(server.pid))) == 1
    if rank == 0:
        server.kill()
        server.restart()
    elastic_barrier()
    assert server.client.write("/after", "restart")

class TestRendezvous:
    pytestmark = pytest.mark.elastic(nnodes=2, nproc=1, timeout=60)

    @pytest.mark.elastic(rdzv_backend="etcd")
    def test_etcd(self, elastic_gather, rank):
        assert elastic_gather(rank) == [0, 1]

    @pytest.mark.elastic(rdzv_backend="etcd-v2")
    def test_etcd_v2(self, elastic_gather, rank):
        assert elastic_gather(rank) == [0, 1]
"""


def test_what_ranks_have_in_common(pytester: pytest.Pytester) -> None:
    result = run(pytester, WORKS, "-Werror")
    assert result.ret == 0, result.stdout.str()
    old = pytest.version_tuple < (9,)
    assert result.parseoutcomes()["passed"] == WORKS.count("def test_") - old


FAILS = """
@E
def test_different_calls(elastic_gather, elastic_barrier, rank):
    if rank == 1:
        elastic_barrier()
    else:
        elastic_gather(1)

@pytest.mark.elastic(nproc=3, timeout=60)
def test_one_passes(elastic_gather, rank):
    if rank != 1:
        elastic_gather(1)

@E
def test_one_skips(elastic_barrier, rank):
    if rank == 1:
        pytest.skip("not here")
    elastic_barrier()

@E
def test_one_fails(elastic_barrier, rank):
    if rank == 1:
        assert rank == 7
    elastic_barrier()

@E
def test_one_is_gone(elastic_barrier, rank):
    if rank == 1:
        os._exit(3)
    elastic_barrier()

@E
def test_one_is_killed(elastic_barrier, rank):
    if rank == 1:
        os.kill(os.getpid(), 9)
    elastic_barrier()

@E
def test_one_passes_and_is_slow_to_end(elastic_barrier, rank, slow_end):
    if rank == 0:
        elastic_barrier()

@pytest.fixture
def slow_end(rank):
    yield
    if rank == 1:
        threading.Event().wait(30)  # the verdict does not wait for it

@pytest.fixture
def fails_on_1(elastic_barrier, rank):
    if rank == 1:
        raise OSError("no disk")
    elastic_barrier()

@E
def test_one_fails_in_set_up(fails_on_1):
    pass

@E
def test_not_picklable(elastic_gather, rank):
    elastic_gather(1 if rank == 0 else (i for i in "abc"))

@E
def test_in_a_forked_process(elastic_gather):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            elastic_gather(1)
        except BaseException as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    raise RuntimeError(os.read(read, 4096).decode())

@pytest.mark.elastic(nproc=2, timeout=3)
def test_hangs(elastic_gather, rank):
    if rank == 1:
        threading.Event().wait()
    elastic_gather(1)

@E
def test_different_ports(free_port_factory, rank):
    free_port_factory(rank + 1)

def test_plain_gather(elastic_gather):
    pass

def test_plain_path(elastic_tmp_path):
    pass

@E
def test_next(elastic_gather, rank):
    assert elastic_gather(rank) == [0, 1]
"""
PREFIX = "pytest_elastic.errors.RanksDivergedError: "
MESSAGES = {
    "test_different_calls": r"\[rank [01]\] " + PREFIX + r"elastic_(gather on rank 0|barrier on rank 1): the ranks did "
    r"not all make this call: rank 0 called elastic_gather at test_it.py:\d+; rank 1 called elastic_barrier at "
    r"test_it.py:\d+",
    "test_one_passes": r"\[rank [02]\] " + PREFIX + r"elastic_gather on rank [02]: the ranks did not all make this "
    r"call: .*rank 1 passed.*",
    "test_one_skips": r"the ranks disagree: rank 1 skipped: not here; rank 0 lost a peer in elastic_barrier at "
    r"test_it.py:\d+ \(collateral\)",
    "test_one_fails": r"\[rank 1\] assert 1 == 7",
    "test_one_is_gone": r"\[rank 1\] exited with code 3 before the test ended",
    "test_one_is_killed": r"\[rank 1\] killed by SIGKILL",
    "test_one_passes_and_is_slow_to_end": r"\[rank 0\] " + PREFIX + r".*rank 1 passed",
    "test_one_fails_in_set_up": r"\[rank 1\] OSError: no disk",
    "test_not_picklable": r"\[rank 1\] .*UnsendableValueError: elastic_gather on rank 1 was called with a value of "
    r"type 'generator' that cannot be pickled \(TypeError: cannot pickle 'generator' object\)",
    "test_in_a_forked_process": r"\[rank [01]\] RuntimeError: elastic_gather was used in a process that rank [01] "
    r"forked; use it in the rank's own process",
    "test_hangs": r"timed out after 3 s: test_hangs",
    "test_different_ports": r"\[rank [01]\] pytest_elastic.errors.ElasticError: fixture 'free_port_factory' gives the "
    r"same to all ranks, but call 1 is free_port_factory\((1\) on rank 0 and free_port_factory\(2\) on rank 1|"
    r"2\) on rank 1 and free_port_factory\(1\) on rank 0)",
    "test_plain_gather": "Failed: fixture 'elastic_gather' is for tests that run on ranks: mark the test with .*",
    "test_plain_path": "Failed: fixture 'elastic_tmp_path' is for tests that run on ranks: mark the test with .*",
}


def test_ranks_that_wait_in_vain_hear_at_once_who_did_what(pytester: pytest.Pytester) -> None:
    result = run(pytester, FAILS, "--durations=0", "-vv")
    summary = {}
    for line in result.outlines:
        if match := re.match(r"(?:FAILED|ERROR) test_it\.py::(\w+) - (.*)", line):
            summary[match[1]] = match[2]
    assert summary.keys() == MESSAGES.keys(), result.stdout.str()
    for name, expected in MESSAGES.items():
        assert re.fullmatch(expected, summary[name]), (name, summary[name])
    assert result.parseoutcomes()["passed"] == 1
    # The one that hangs is told where it was; the others were not even near a deadline or a grace time that ran out.
    result.stdout.fnmatch_lines(["rank 0: in elastic_gather at test_it.py:*"])
    text = result.stdout.str()
    assert re.search(r"rank 0 lost a peer in elastic_\w+ at test_it\.py:\d+ \(collateral\)", text)
    for name in ("test_different_calls", "test_one_passes", "test_one_skips", "test_one_fails", "test_not_picklable"):
        took = [float(t) for t in re.findall(rf"([\d.]+)s (?:call|setup) +test_it\.py::{name}\n", text)]
        assert sum(took) < 10, (name, took)


def test_a_user_fixture_of_the_same_name_wins(pytester: pytest.Pytester, tmp_path: Path) -> None:
    source = """
@pytest.fixture
def free_port(rank):
    return 1000 + rank

@pytest.fixture
def elastic_gather():
    return "mine"

@E
def test_mine(free_port, elastic_gather, rank):
    assert free_port == 1000 + rank
    assert elastic_gather == "mine"
"""
    run(pytester, source).assert_outcomes(passed=1)
