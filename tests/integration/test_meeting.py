"""How members of a session find the first one: over real sockets and stores, and under real launchers."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic import clock
from pytest_elastic.cluster import addresses
from pytest_elastic.cluster.addresses import Address
from pytest_elastic.cluster.boards import FileBoard, StoreBoard, signed
from pytest_elastic.cluster.key import cluster_key
from pytest_elastic.cluster.meeting import Listening, MeetingError, find_first, listen, reach_first
from pytest_elastic.cluster.membership import Membership

if TYPE_CHECKING:
    from torch.distributed import TCPStore

KEY = cluster_key({"PYTEST_ELASTIC_KEY": "the key of these tests"}, {})
OTHER_KEY = cluster_key({"PYTEST_ELASTIC_KEY": "the key of other tests"}, {})
LONG = 120.0
MEMBER = str(Path(__file__).with_name("meeting_member.py"))


def member(rank: int, **changes: Any) -> Membership:
    usual = Membership(
        launcher="options",
        rank=rank,
        size=2,
        local_rank=0,
        local_size=1,
        node=rank,
        nodes=2,
        host="127.0.0.1",
        port=0,
        store=False,
        attempt=0,
        run_id="a run",
    )
    return replace(usual, **changes)


def within(seconds: float) -> float:
    return clock.monotonic() + seconds


def missed(call: Callable[[], object]) -> str:
    with pytest.raises(MeetingError) as error:
        call()
    text = str(error.value)
    assert text.isprintable()
    assert text.startswith("elastic: ")
    assert len(text) < 600
    for key in (KEY, OTHER_KEY):
        assert key.hex() not in text
    return text


@pytest.fixture(params=["127.0.0.1", "::1", "localhost"])
def held(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """Return a host and a port where nobody listens, and that nobody else is given."""
    host: str = request.param
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} on this machine: {error}")
        yield host, holder.getsockname()[1]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"pytest-elastic-meetings-{os.getuid()}"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as executor:
        yield executor


def serve(listening: Listening, times: int = 1) -> None:
    """Say to those who connect which session it is."""
    listening.socket.settimeout(LONG)
    for _ in range(times):
        connection, _ = listening.socket.accept()
        with connection:
            connection.sendall(b"session " + listening.address.session.encode())


def greet(connection: socket.socket, address: Address) -> Address:
    assert connection.gettimeout() is None
    with connection:
        connection.settimeout(LONG)
        answer = connection.recv(100)
    if not answer:
        raise EOFError
    if answer == b"foreign":
        raise AuthenticationError("what answers there does not know the key")
    assert answer == b"session " + address.session.encode()
    return address


def follow(threads: ThreadPoolExecutor, membership: Membership, seconds: float = LONG) -> Future[Address]:
    return threads.submit(reach_first, membership, KEY, within(seconds), greet)


def test_a_member_that_is_early_waits_at_the_endpoint(held: tuple[str, int], threads: ThreadPoolExecutor) -> None:
    host, port = held
    tried = threading.Event()

    def first_try(connection: socket.socket, address: Address) -> Address:
        tried.set()
        return greet(connection, address)

    places = {"host": host, "port": port}
    follower = threads.submit(reach_first, member(1, **places), KEY, within(LONG), first_try)
    assert not tried.is_set()
    with closing(listen(member(0, **places), KEY, within(LONG))) as listening:
        assert listening.address == Address(host=host, port=port)
        serve(listening)
        assert follower.result(LONG) == listening.address
    with socket.socket(listening.socket.family) as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((host, port))  # it is closed


def test_only_the_address_of_the_endpoint_is_listened_at(held: tuple[str, int]) -> None:
    host, port = held
    with closing(listen(member(0, host=host, port=port), KEY, within(LONG))) as listening:
        bound = listening.socket.getsockname()[0]
        assert addresses.is_loopback(bound)
        assert listening.socket.gettimeout() is None


def test_a_name_that_is_loopback_only_here_is_listened_at_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: int, until: float) -> list[tuple[int, Any]]:  # as in Debian's /etc/hosts
        return [(socket.AF_INET, ("127.0.1.1", port))]

    monkeypatch.setattr(addresses, "resolve", look_up)
    with addresses.listen_at("head", 0, shared=True, until=within(1)) as listener:
        assert listener.getsockname()[0] in ("::", "0.0.0.0")
        with closing(addresses.connect("127.0.0.1", listener.getsockname()[1], within(LONG))):
            pass
    with addresses.listen_at("head", 0, shared=False, until=within(1)) as listener:
        assert listener.getsockname()[0] == "127.0.1.1"


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_that_is_none_of_this_host_is_taken_for_a_translated_one(host: str) -> None:
    with addresses.listen_at(host, 0, shared=True, until=within(1)) as listener:
        assert listener.getsockname()[0] in ("::", "0.0.0.0")


def test_nobody_there(held: tuple[str, int]) -> None:
    host, port = held
    text = missed(lambda: reach_first(member(1, host=host, port=port), KEY, within(0.3), greet))
    where = re.escape(str(Address(host=host, port=port)))
    assert re.fullmatch(
        rf"elastic: node 1 could not reach the first controller at {where} within \d+ s: connection refused", text
    )
    text = missed(lambda: find_first(member(5, host=host, port=port, local_size=4), KEY, within(0.3)))
    assert text.startswith("elastic: rank 5 could not reach ")


def test_a_host_that_is_not_known() -> None:
    started = clock.monotonic()
    text = missed(lambda: find_first(member(1, host="nowhere.invalid", port=1), KEY, within(1)))
    assert re.search(r"at nowhere\.invalid:1 within \d+ s: the (name of the host is not known|look-up)", text)
    assert clock.monotonic() - started < 30
    text = missed(lambda: find_first(member(1, host="a" * 70 + ".invalid", port=1), KEY, within(0.3)))
    assert "the name of the host is not known" in text


def test_a_look_up_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: ended.wait(LONG) and [])
    text = missed(lambda: find_first(member(1, host="head", port=1), KEY, within(0.3)))
    ended.set()
    assert text.endswith(": the look-up of the host's name does not end")


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = missed(lambda: listen(member(0, port=port), KEY, within(0.3)))
    assert text == (
        f"elastic: node 0 cannot listen at 127.0.0.1:{port}: address already in use; expected a port of this host that "
        "nobody else uses: give another one by --elastic-rdzv-endpoint on every node"
    )


def test_a_port_of_a_session_that_is_ending_is_waited_for(threads: ThreadPoolExecutor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        first = threads.submit(listen, member(0, port=port), KEY, within(LONG))
    with closing(first.result(LONG)) as listening:
        assert listening.address.port == port


def test_another_program_at_the_endpoint_is_not_the_first(threads: ThreadPoolExecutor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        follower = follow(threads, member(1, port=port))
        other.settimeout(LONG)
        other.accept()[0].close()  # one that ends the connection: it may be going
        with other.accept()[0] as connection:
            connection.sendall(b"foreign")
    with closing(listen(member(0, port=port), KEY, within(LONG))) as listening:
        serve(listening)
        assert follower.result(LONG) == listening.address


def test_one_that_never_knows_the_key_is_not_waited_for(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_elastic.cluster.meeting._PATIENCE", 0.3)

    def refuse(connection: socket.socket, address: Address) -> Address:
        connection.close()
        raise AuthenticationError("what answers there does not know the key")

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = missed(lambda: reach_first(member(1, port=port), KEY, within(LONG), refuse))
    assert text.endswith("does not know the key: set PYTEST_ELASTIC_KEY to the same secret on every node")


HERE: dict[str, Any] = {"nodes": 1, "node": 0, "local_size": 2, "host": None, "port": 0, "run_id": "a job"}


def test_members_on_one_machine_meet_by_a_file(directory: Path, threads: ThreadPoolExecutor) -> None:
    follower = follow(threads, member(1, **HERE))
    with closing(listen(member(0, **HERE), KEY, within(LONG))) as listening:
        assert listening.socket.getsockname()[0] == listening.address.host == "127.0.0.1"
        (file,) = directory.iterdir()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        serve(listening)
        assert follower.result(LONG) == listening.address
    assert list(directory.iterdir()) == []


def test_runs_that_have_no_name_are_apart_by_their_stores(directory: Path) -> None:
    one, two = ({**HERE, "run_id": "none", "host": "127.0.0.1", "port": port, "store": True} for port in (1, 2))
    with closing(listen(member(0, **one), KEY, within(LONG))), closing(listen(member(0, **two), KEY, within(LONG))):
        assert len(list(directory.iterdir())) == 2


def test_what_is_left_of_a_session_that_was_killed_is_not_taken_for_the_next(
    directory: Path, threads: ThreadPoolExecutor, held: tuple[str, int]
) -> None:
    stale = Address(host=held[0], port=held[1], session="0" * 32)
    FileBoard(member(0, **HERE)).write(signed(stale, KEY, member(0, **HERE)), within(LONG))
    follower = follow(threads, member(1, **HERE))
    with closing(listen(member(0, **HERE), KEY, within(LONG))) as listening:
        serve(listening)
        assert follower.result(LONG) == listening.address


def test_the_end_of_a_session_does_not_hide_the_next(directory: Path) -> None:
    before = listen(member(0, **HERE), KEY, within(LONG))
    with closing(listen(member(0, **HERE), KEY, within(LONG))) as after:
        before.close()
        assert find_first(member(1, **HERE), KEY, within(LONG)) == after.address


def test_old_files_are_swept(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    for name, age in (("old", 8), ("young", 6)):
        (directory / name).touch()
        seconds = (directory / name).stat().st_mtime - age * 86_400
        os.utime(directory / name, (seconds, seconds))
    listen(member(0, **HERE), KEY, within(LONG)).close()
    assert [path.name for path in directory.iterdir()] == ["young"]


FORGED = [
    b"",
    b"x",
    b"[1, 2, 3]",
    b'["h", 1, ""] ' + b"0" * 64,
    b"\x80\x04N.",
    b"x" * 5000,
    "[é] ".encode() + b"0" * 64,
]


@pytest.mark.parametrize("text", FORGED, ids=range(len(FORGED)))
def test_what_somebody_else_has_written_is_not_read(directory: Path, text: bytes) -> None:
    FileBoard(member(0, **HERE)).write(text, within(LONG))
    error = missed(lambda: find_first(member(1, **HERE), KEY, within(0.3)))
    assert "could not learn from " in error
    assert error.endswith(
        "what stands there was not written with the key that this process has: set PYTEST_ELASTIC_KEY to the same "
        "secret on every node"
    )


def test_what_was_written_with_another_key_or_for_another_run_is_not_read(directory: Path) -> None:
    address = Address(host="127.0.0.1", port=1, session="0" * 32)
    for text in (
        signed(address, OTHER_KEY, member(0, **HERE)),
        signed(address, KEY, member(0, **{**HERE, "run_id": "another job"})),
        signed(address, KEY, member(0, **HERE)).replace(b'", 1,', b'", 2,'),
    ):
        FileBoard(member(0, **HERE)).write(text, within(LONG))
        assert "was not written with the key" in missed(lambda: find_first(member(1, **HERE), KEY, within(0.3)))


def test_a_first_that_says_nothing(directory: Path) -> None:
    text = missed(lambda: find_first(member(1, **HERE), KEY, within(0.3)))
    assert re.fullmatch(
        r"elastic: rank 1 could not learn from /\S+ where the first is within \d+ s: it has not .*", text
    )


@pytest.fixture(scope="module")
def store() -> TCPStore:
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def by_store(store: TCPStore, run_id: str) -> dict[str, Any]:
    return {"launcher": "torchrun", "host": "127.0.0.1", "port": store.port, "store": True, "run_id": run_id}


def test_members_on_two_hosts_meet_by_the_store_of_the_launcher(store: TCPStore, threads: ThreadPoolExecutor) -> None:
    run = by_store(store, "a run")
    follower = follow(threads, member(1, **run))
    with closing(listen(member(0, **run), KEY, within(LONG))) as listening:
        assert listening.socket.getsockname()[0] == listening.address.host == "127.0.0.1"
        serve(listening)
        assert follower.result(LONG) == listening.address


def test_the_store_outlives_a_first_that_is_started_again(store: TCPStore, threads: ThreadPoolExecutor) -> None:
    run = by_store(store, "started again")
    before = listen(member(0, **run), KEY, within(LONG))
    before.close()
    follower = follow(threads, member(1, attempt=1, **run))
    with closing(listen(member(0, **run), KEY, within(LONG))) as listening:
        assert listening.address.session != before.address.session
        serve(listening)
        assert follower.result(LONG) == listening.address
        late = follow(threads, member(1, attempt=2, **run))  # that one alone
        serve(listening)
        assert late.result(LONG) == listening.address


@pytest.mark.parametrize("text", FORGED[1:4], ids=range(3))
def test_what_somebody_else_has_written_to_the_store_is_not_read(store: TCPStore, text: bytes) -> None:
    run = by_store(store, f"forged {len(text)}")
    StoreBoard(member(0, **run)).write(text, within(LONG))
    error = missed(lambda: find_first(member(1, **run), KEY, within(1)))
    assert f"could not learn from torchrun's store at 127.0.0.1:{store.port} where" in error
    assert "was not written with the key" in error


def test_a_store_that_is_gone(held: tuple[str, int]) -> None:
    gone = {"host": held[0], "port": held[1], "store": True}
    for call in (find_first, listen):
        text = missed(lambda call=call: call(member(1, **gone), KEY, within(0.3)))  # type: ignore[misc]
        assert "torchrun's store at " in text
        assert text.endswith(": connection refused")


def test_a_store_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = clock.monotonic()
        run = {"port": silent.getsockname()[1], "store": True}
        assert "torchrun's store at " in missed(lambda: find_first(member(1, **run), KEY, within(1)))
        assert clock.monotonic() - started < 60


def lines_of(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    try:
        outputs = [process.communicate(timeout=LONG) for process in processes]
    finally:
        for process in processes:
            process.kill()
    text = "\n".join(part for output in outputs for part in output)
    assert [process.returncode for process in processes] == [0] * len(processes), text
    found = [line for line in text.splitlines() if line.startswith('{"rank"')]
    return sorted(map(json.loads, found), key=lambda line: (line["rank"], line["attempt"]))


def start(*command: str, **environ: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTEST_ELASTIC_KEY": "the key of these tests", "OMP_NUM_THREADS": "1", **environ}
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def in_place(lines: list[dict[str, Any]], size: int) -> bool:
    return [line["rank"] for line in lines] == list(range(size)) and all(
        line["in_place"] and line["size"] == size and not line["torch"] for line in lines
    )


@pytest.mark.own_server
def test_processes_of_one_parent_meet() -> None:
    """As MPICH starts them; here it is this process that does."""
    members = [
        start(sys.executable, MEMBER, PMI_RANK=rank, PMI_SIZE="3", MPI_LOCALRANKID=rank, MPI_LOCALNRANKS="3")
        for rank in "120"
    ]
    assert in_place(lines_of(members), 3)


@pytest.mark.own_server
@pytest.mark.parametrize("program", ["mpirun.openmpi", "mpiexec.mpich"])
def test_members_meet_under_mpirun(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    more = ["--oversubscribe"] if "openmpi" in program else []
    # Each has a parent of its own.
    shell = ("sh", "-c", f"'{sys.executable}' '{MEMBER}'; exit $?")
    assert in_place(lines_of([start(program, *more, "-n", "3", *shell, **ROOT)]), 3)


@pytest.mark.own_server
@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_ranks_of_torchrun_meet(shared: bool) -> None:
    command = (*TORCHRUN, "--standalone", "--nproc-per-node=3", MEMBER)
    lines = lines_of([start(*command, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="0" if shared else "1")])
    assert in_place(lines, 3)
    assert {line["store"] for line in lines} == {shared}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def two_torchruns(backend: str, **environ: str) -> list[dict[str, Any]]:
    port = free_port()
    c10d = ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1")
    static = ("--master-addr=127.0.0.1", f"--master-port={port}")
    common = (*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--max-restarts=1")
    processes = []
    for rank in range(2):
        own = c10d if backend == "c10d" else (*static, f"--node-rank={rank}")
        processes.append(start(*common, *own, MEMBER, **environ))
    return lines_of(processes)


@pytest.mark.soak
@pytest.mark.own_server
@pytest.mark.parametrize("backend", ["c10d", "static"])
@pytest.mark.parametrize("shared", [True, False])
def test_nodes_of_torchrun_meet(backend: str, shared: bool) -> None:
    lines = two_torchruns(backend, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="0" if shared else "1")
    assert [(line["rank"], line["size"], line["in_place"]) for line in lines] == [(0, 2, False), (1, 2, False)]
    assert {line["store"] for line in lines} == {shared or backend == "static"}


@pytest.mark.soak
@pytest.mark.own_server
@pytest.mark.parametrize("backend", ["c10d", "static"])
@pytest.mark.parametrize("shared", [True, False])
def test_nodes_of_torchrun_meet_again_after_one_has_failed(backend: str, shared: bool, tmp_path: Path) -> None:
    """Over c10d all are started again, and only one counts it; over static the one that failed is, alone."""
    environ = {"FAIL_ONCE": str(tmp_path / "failed"), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0" if shared else "1"}
    lines = two_torchruns(backend, **environ)
    assert [(line["rank"], line["attempt"]) for line in lines] == [(0, 0), (1, 0), (1, 1)]
