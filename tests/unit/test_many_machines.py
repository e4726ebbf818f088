"""Small parts of a session on many machines."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_elastic import clock
from pytest_elastic.channel import connect, listen_on
from pytest_elastic.cluster import termination
from pytest_elastic.cluster.launcher_record import may_be_started_again
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.packing import Packing
from pytest_elastic.cluster.termination import Termination
from pytest_elastic.messages import RankId
from pytest_elastic.report.hosts import named, on
from pytest_elastic.report.records import RankRecord
from pytest_elastic.roles import GIVEN

LONG = 60.0

# --- the channel, between machines -----------------------------------------------------------------------------


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    try:
        listener = listen_on(request.param)
    except OSError as error:
        pytest.skip(f"no {request.param} on this machine: {error}")
    with listener:
        yield listener


def answer(listener: socket.socket, key: bytes) -> None:
    """Prove the key to one caller, and say a word."""
    caller, _ = listener.accept()
    with caller, Connection(os.dup(caller.fileno())) as connection, suppress(AuthenticationError, EOFError, OSError):
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        connection.send("word")


@pytest.fixture
def answering() -> Iterator[Callable[[socket.socket, bytes], None]]:
    threads = []

    def start(listener: socket.socket, key: bytes) -> None:
        threads.append(threading.Thread(target=answer, args=(listener, key)))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_a_connection_to_another_machine(
    listener: socket.socket, answering: Callable[[socket.socket, bytes], None]
) -> None:
    answering(listener, b"key")
    host, port = listener.getsockname()[:2]
    with connect((host, port), b"key", LONG) as connection:
        assert connection.recv() == "word"
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not any(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))


def test_one_to_a_machine_with_another_key(
    listener: socket.socket, answering: Callable[[socket.socket, bytes], None]
) -> None:
    answering(listener, b"key")
    with pytest.raises(AuthenticationError):
        connect(listener.getsockname()[:2], b"another", LONG)


def test_one_to_a_machine_that_says_nothing_ends(listener: socket.socket) -> None:
    with pytest.raises(OSError, match="temporarily unavailable"):
        connect(listener.getsockname()[:2], b"key", 1.0)


def test_one_to_a_machine_that_hangs_up(listener: socket.socket) -> None:
    thread = threading.Thread(target=lambda: listener.accept()[0].close())
    thread.start()
    with pytest.raises((EOFError, ConnectionError)):
        connect(listener.getsockname()[:2], b"key", LONG)
    thread.join()


def test_one_to_where_nobody_listens() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            connect(holder.getsockname(), b"key", LONG)


def test_a_port_that_is_taken_is_refused(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    with pytest.raises(OSError, match="in use"):
        listen_on(host, port)


# --- the clock -----------------------------------------------------------------------------------------------------


def test_a_shifted_clock_tells_the_time_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    own = clock.monotonic_ns
    monkeypatch.setattr(clock, "monotonic_ns", own)  # set back when the test is over
    clock.shift_by(0)
    assert clock.monotonic_ns is own
    hour = 3_600_000_000_000
    clock.shift_by(-hour)
    assert own() - hour <= clock.monotonic_ns() <= own() - hour + 60_000_000_000
    assert abs(clock.monotonic() - own() / 1e9) < 60  # waits of this process are not concerned


# --- names of machines -------------------------------------------------------------------------------------------


def rank(number: int, host: str) -> RankRecord:
    identity = RankId(world="w", rank=number, local_rank=0, node=0, group_rank=0, world_size=4, restart=0)
    return RankRecord(id=identity, directory=Path(), host=host)


@pytest.mark.parametrize(
    ("hosts", "numbers", "text"),
    [
        (["", "", "", ""], [0, 1, 3], "ranks 0-1,3"),
        (["a", "a", "b", "b"], [2], "rank 2 on b"),
        (["a", "a", "b", "b"], [0, 1, 3], "ranks 0-1 on a and rank 3 on b"),
        (["a", "b", "a", "b"], [0, 1, 2, 3], "ranks 0,2 on a and ranks 1,3 on b"),
        (["a", "a", "a", "a"], [1, 2], "ranks 1-2 on a"),
    ],
)
def test_ranks_are_named_with_their_machines(hosts: list[str], numbers: list[int], text: str) -> None:
    assert named(numbers, [rank(number, host) for number, host in enumerate(hosts)]) == text


def test_one_machine_is_not_named() -> None:
    assert (on(""), on("a")) == ("", " on a")


# --- a session that torchrun may start again -----------------------------------------------------------------

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "run",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_MAX_RESTARTS": "0",
    "TORCHELASTIC_RESTART_COUNT": "0",
}


def member(nodes: int) -> Membership:
    return Membership(
        launcher="torchrun",
        rank=0,
        size=4,
        local_rank=0,
        local_size=4 // nodes,
        node=0,
        nodes=nodes,
        host="head",
        port=1,
        store=True,
        attempt=0,
        run_id="run",
    )


@pytest.mark.parametrize(
    ("changes", "nodes", "may"),
    [
        ({}, None, False),
        ({}, 1, False),
        ({}, 2, True),  # one may come, and all are started again
        ({"TORCHELASTIC_MAX_RESTARTS": "2"}, None, True),
        ({"TORCHELASTIC_MAX_RESTARTS": "2"}, 1, True),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, None, True),
        ({"TORCHELASTIC_MAX_RESTARTS": "many"}, None, False),
        ({"TORCHELASTIC_MAX_RESTARTS": "-1"}, None, False),
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, 2, False),
        ({"TORCHELASTIC_USE_AGENT_STORE": None}, 2, False),
        ({"TORCHELASTIC_RUN_ID": None}, 2, False),
    ],
)
def test_whether_torchrun_may_start_a_session_again(
    changes: dict[str, str | None], nodes: int | None, may: bool
) -> None:
    environ = {name: value for name, value in (TORCHRUN | changes).items() if value is not None}
    assert may_be_started_again(environ, None if nodes is None else member(nodes)) is may


# --- SIGTERM of a launcher ------------------------------------------------------------------------------------------


@pytest.fixture
def session() -> Any:
    return SimpleNamespace(shouldstop=False)


@pytest.fixture(autouse=True)
def no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(termination, "_NOTICE", 0.0)


def test_a_launcher_that_ends_the_session_ends_it(session: Any) -> None:
    with pytest.raises(pytest.exit.Exception) as exited, Termination(session, lambda: False).in_force():
        signal.raise_signal(signal.SIGTERM)
    assert exited.value.returncode == 143
    assert str(exited.value) == "ended by the launcher (SIGTERM)"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert session.shouldstop is False


def test_the_test_that_lost_a_node_ends_with_its_verdict(session: Any) -> None:
    with Termination(session, lambda: True).in_force():
        signal.raise_signal(signal.SIGTERM)
        assert session.shouldstop == "ended by the launcher (SIGTERM)"
        with pytest.raises(pytest.exit.Exception):  # whoever says it twice does not wait
            signal.raise_signal(signal.SIGTERM)
    assert not [each for each in threading.enumerate() if isinstance(each, threading.Timer) and not each.finished]


def test_a_test_that_does_not_end_does_not_get_for_ever(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(termination, "_LAST", 0.2)
    with Termination(session, lambda: True).in_force():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(pytest.exit.Exception):
            threading.Event().wait(LONG)


def test_somebody_elses_handler_is_left_alone(session: Any) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with Termination(session, lambda: True).in_force():
            signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_taken(session: Any) -> None:
    found: list[object] = []

    def run() -> None:
        with Termination(session, lambda: True).in_force():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


# --- tests that run side by side -------------------------------------------------------------------------------

FILE = """
import pytest
from pytest_elastic import controller_fixture

one = pytest.mark.elastic(nproc=1)

@one
def test_marked(rank): pass
def test_plain(): pass
@pytest.mark.elastic(nproc=1, isolation="module")
def test_kept(rank): pass
@pytest.mark.elastic(nproc=1, isolation="session")
def test_kept_for_long(rank): pass
@pytest.mark.elastic(nproc=1, device="cuda")
def test_device(rank): pass
@pytest.mark.elastic(nproc=1, rdzv_backend="etcd-v2")
def test_etcd(rank): pass
@pytest.mark.elastic(nproc=1, rdzv_backend="c10d")
def test_c10d(rank): pass
@pytest.mark.elastic(nproc=0)
def test_wrong(rank): pass
@one
@pytest.mark.skip
def test_skipped(rank): pass
@one
@pytest.mark.skipif(True, reason="so")
def test_skipped_if(rank): pass
@one
@pytest.mark.skipif(False, reason="so")
def test_not_skipped(rank): pass
@one
@pytest.mark.skipif("no_such_name", reason="so")
def test_skip_unknown(rank): pass
@controller_fixture
def here(): pass
@one
def test_depends(rank, here): pass
@pytest.fixture
def through(here): pass
@one
def test_depends_through_another(rank, through): pass
@one
def test_own_fixture(rank, tmp_path): pass
"""


def test_which_tests_are_started_ahead_of_their_turn(pytester: pytest.Pytester) -> None:
    items, _ = pytester.inline_genitems(str(pytester.makepyfile(FILE)), "-p", "elastic")
    run: Any = SimpleNamespace(given=items[0].config.stash[GIVEN], cluster=None)
    packing = Packing(run, items)
    assert [item.name for item in items if packing._may_start(item)] == [
        "test_marked",
        "test_c10d",
        "test_not_skipped",
        "test_own_fixture",
    ]
    packing.look_ahead(items[0])  # there are no nodes
    assert all(packing.take(item) is None for item in items)
    packing.close()
