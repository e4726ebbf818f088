"""The controllers that follow, as the first one knows them: callers of every kind, over real sockets."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

import pytest

from pytest_elastic.cluster import members as under_test
from pytest_elastic.cluster.link import Link
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.members import Members
from pytest_elastic.cluster.messages import Collected, Hello, Refused, Release, Synced, Welcome
from pytest_elastic.cluster.surroundings import clock_of_this_machine, versions
from pytest_elastic.controller.nodes import NodeLost

KEY, OTHER = b"k" * 32, b"o" * 32
LONG = 60.0
FIRST = Membership(
    launcher="options",
    rank=0,
    size=3,
    local_rank=0,
    local_size=1,
    node=0,
    nodes=3,
    host="127.0.0.1",
    port=0,
    store=False,
    attempt=0,
    run_id="a run",
)
HELLO = Hello(
    rank=1,
    size=3,
    nodes=3,
    local_size=1,
    host="far",
    address="127.0.0.1",
    pid=1234,
    versions=versions(),
    clock=clock_of_this_machine(),
)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def members(request: pytest.FixtureRequest) -> Iterator[Members]:
    listener = socket.socket(request.param)
    try:
        listener.bind(("::1" if request.param == socket.AF_INET6 else "127.0.0.1", 0))
    except OSError as error:
        listener.close()
        pytest.skip(f"no IPv6 on this machine: {error}")
    listener.listen()
    members = Members(listener, KEY, FIRST, silence=LONG)
    yield members
    members.close(Release(exitcode=0), LONG, 0.0)
    for thread in list(threading.enumerate()):
        if thread.name.startswith("elastic-"):
            thread.join(LONG)
    assert [each.name for each in threading.enumerate() if each.name.startswith("elastic-")] == []


def call(members: Members) -> Connection:
    listener = members._listener
    sock = socket.create_connection(listener.getsockname()[:2], timeout=LONG)
    sock.settimeout(None)
    return Connection(sock.detach())


def say(members: Members, hello: object, key: bytes = KEY) -> tuple[Connection, Any]:
    connection = call(members)
    answer_challenge(connection, key)
    deliver_challenge(connection, key)
    connection.send_bytes(pickle.dumps(hello))
    return connection, pickle.loads(connection.recv_bytes())


def come(members: Members, rank: int = 1, **changes: Any) -> Link:
    connection, answer = say(members, replace(HELLO, rank=rank, **changes))
    assert answer == Welcome(run="a run")
    link = Link(connection, silence=LONG, hear=lambda _: None, lost=lambda _: None)
    link.start()
    return link


def wait(members: Members, reached: Callable[[], bool]) -> None:
    assert members.wait(reached, LONG)


def test_one_that_comes_is_there_until_it_hangs_up(members: Members) -> None:
    link = come(members)
    wait(members, lambda: members.get(1) is not None)
    member = members.get(1)
    assert member is not None
    assert (member.host, member.lost, member.local_address) == ("far", "", members._listener.getsockname()[0])
    assert member.shift_ns == 0  # it reads the same clock
    assert members.get(2) is None

    link.send(Collected(tests=("a", "b")))
    wait(members, lambda: member.collected is not None)
    link.close()
    wait(members, lambda: bool(member.lost))
    assert member.lost == "its pytest has ended"
    assert members.get(1) is member
    assert members.refusals == []


def test_what_it_says_goes_to_its_launch_and_so_does_its_loss(members: Members) -> None:
    link = come(members)
    wait(members, lambda: members.get(1) is not None)
    member = members.get(1)
    assert member is not None
    heard: list[object] = []
    others: list[object] = []
    member.open("one", heard.append)
    member.open("other", others.append)
    member.close("other")
    for name in ("one", "other", "unknown"):
        link.send(Synced(launch=name, number=1))
    link.send(Collected(tests=()))
    wait(members, lambda: member.collected is not None)
    assert heard == [Synced(launch="one", number=1)]

    link.close()
    wait(members, lambda: bool(member.lost))
    wait(members, lambda: len(heard) == 2)
    assert heard[1] == NodeLost("its pytest has ended")
    assert others == []
    late: list[object] = []
    member.open("late", late.append)
    assert late == [NodeLost("its pytest has ended")]


def test_one_with_another_key_is_not_unpickled(members: Members) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("it was unpickled",)

    connection = call(members)
    with pytest.raises(AuthenticationError):
        answer_challenge(connection, OTHER)
    with suppress(ConnectionError):
        connection.send_bytes(pickle.dumps(Bomb()))
    connection.close()
    wait(members, lambda: bool(members.strangers))
    assert members.strangers == [members._listener.getsockname()[0]]
    assert members.refusals == []
    assert come(members).open


def test_who_does_not_prove_the_key_is_not_answered(members: Members) -> None:
    """It is let in only when both ends have proven it: one that only copies what it is asked has not."""
    connection = call(members)
    challenge = connection.recv_bytes()
    connection.send_bytes(challenge)
    assert connection.recv_bytes() == b"#FAILURE#"
    connection.close()


def test_one_that_says_nothing_is_let_go(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_PROOF", 1.0)
    connection = call(members)
    assert connection.recv_bytes()  # the challenge
    with pytest.raises((EOFError, ConnectionError)):
        connection.recv_bytes()
    connection.close()
    assert members.refusals == []
    assert come(members).open  # and nobody had to wait for that


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"size": 2}, "number 1 of 2 pytest processes, 1 on each of 3 nodes, but the first is of 3, 1 on each of 3"),
        ({"rank": 3}, "number 3 of 3 pytest processes"),
        ({"rank": 0}, "number 0 of 3 pytest processes"),
        ({"rank": -1}, "number -1 of 3"),
        ({"nodes": 1, "local_size": 3}, "3 on each of 1 nodes, but the first is of 3, 1 on each of 3"),
        ({"versions": {**versions(), "torch": "1.0"}}, "has torch 1.0, not "),
        ({"versions": {}}, "install the same versions on every node"),
    ],
)
def test_one_that_does_not_fit_is_refused(members: Members, changes: dict[str, Any], why: str) -> None:
    connection, answer = say(members, replace(HELLO, **changes))
    assert isinstance(answer, Refused)
    assert answer.reason.startswith("far (pid 1234) ")
    assert why in answer.reason
    assert "\n" not in answer.reason
    wait(members, lambda: bool(members.refusals))
    assert members.refusals == [answer.reason]
    with pytest.raises((EOFError, ConnectionError)):
        connection.recv_bytes()
    connection.close()
    assert members.get(1) is None


def test_one_that_says_something_else_is_refused(members: Members) -> None:
    connection, answer = say(members, "hello")
    assert answer == Refused(reason="a caller said str, not who it is")
    connection.close()


def test_what_cannot_be_unpickled_hurts_nobody(members: Members) -> None:
    connection = call(members)
    answer_challenge(connection, KEY)
    deliver_challenge(connection, KEY)
    connection.send_bytes(b"no pickle")
    answer = pickle.loads(connection.recv_bytes())
    assert isinstance(answer, Refused)
    assert answer.reason.startswith("what a caller said cannot be read (UnpicklingError: ")
    connection.close()
    assert come(members).open


def test_one_that_is_started_again_takes_the_place(members: Members) -> None:
    came: list[object] = []
    members.came = came.append
    before = come(members, pid=1)
    wait(members, lambda: members.get(1) is not None)
    one = members.get(1)
    assert one is not None
    before.close()
    wait(members, lambda: bool(one.lost))
    again = come(members, pid=2)
    wait(members, lambda: members.get(1) is not one)
    two = members.get(1)
    assert two is not None
    assert two.hello.pid == 2
    assert two.lost == ""
    assert came == [one, two]
    assert again.open


def test_one_that_comes_back_takes_its_own_place(members: Members) -> None:
    before = come(members, pid=1)
    wait(members, lambda: members.get(1) is not None)
    one = members.get(1)
    assert one is not None
    again = come(members, pid=1)  # its old link was cut, which this end has not noticed
    wait(members, lambda: members.get(1) is not one)
    assert one.lost == "it was started again"
    before.close()
    assert again.open


def test_a_second_one_of_the_same_number_is_refused_while_the_first_lives(members: Members) -> None:
    before = come(members, pid=1)
    wait(members, lambda: members.get(1) is not None)
    one = members.get(1)
    connection, answer = say(members, replace(HELLO, pid=2))
    connection.close()
    reason = "far (pid 2) says that it is number 1, as far (pid 1) is already; start each of them once"
    assert answer == Refused(reason=reason)
    assert members.get(1) is one
    assert members.hopeless == ""
    assert before.open


def test_the_last_word_reaches_all_and_no_launch_waits_any_more() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    members = Members(listener, KEY, FIRST, silence=LONG)
    connections = []
    for rank in (1, 2):
        connection, _ = say(members, replace(HELLO, rank=rank))
        connections.append(connection)
    wait(members, lambda: members.get(1) is not None and members.get(2) is not None)
    heard: list[object] = []
    member = members.get(2)
    assert member is not None
    member.open("launch", heard.append)

    members.close(Release(exitcode=3), LONG, stay=0.0)

    assert heard == [NodeLost("the run is over")]
    for connection in connections:
        told = []
        with suppress(EOFError, ConnectionError):
            while True:
                told.append(pickle.loads(connection.recv_bytes()))
        assert told[-1] == Release(exitcode=3)
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=LONG)
