"""The connection between two controllers, over real sockets."""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

import pytest

from pytest_elastic import clock
from pytest_elastic.cluster.link import Link
from pytest_elastic.cluster.messages import Ping, Pong, Sync

LONG = 60.0


class End:
    """One end of a link, and what it hears."""

    def __init__(self, sock: socket.socket, silence: float = LONG) -> None:
        self.changed = threading.Condition()
        self.heard: list[object] = []
        self.lost: list[str] = []
        self.link = Link(Connection(sock.detach()), silence=silence, hear=self._hear, lost=self._lose)

    def _hear(self, message: object) -> None:
        with self.changed:
            self.heard.append(message)
            self.changed.notify_all()

    def _lose(self, reason: str) -> None:
        with self.changed:
            self.lost.append(reason)
            self.changed.notify_all()

    def wait(self, reached: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(reached, LONG)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    yield here, there
    for sock in (here, there):
        with suppress(OSError):
            sock.close()


@pytest.fixture
def ends(sockets: tuple[socket.socket, socket.socket]) -> Iterator[tuple[End, End]]:
    one, other = End(sockets[0]), End(sockets[1])
    one.link.start()
    other.link.start()
    yield one, other
    one.link.close()
    other.link.close()


@pytest.fixture
def end(sockets: tuple[socket.socket, socket.socket]) -> Iterator[tuple[End, socket.socket]]:
    """Return an end whose other one is in the hands of the test."""
    one = End(sockets[0])
    yield one, sockets[1]
    one.link.close()


def frame(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("elastic-link")]


def test_messages_come_in_order_both_ways(ends: tuple[End, End]) -> None:
    one, other = ends
    for number in range(200):
        one.link.send(Sync(launch="one", number=number))
        other.link.send(Sync(launch="other", number=number))

    one.wait(lambda: len(one.heard) == 200)
    other.wait(lambda: len(other.heard) == 200)

    assert one.heard == [Sync(launch="other", number=number) for number in range(200)]
    assert other.heard == [Sync(launch="one", number=number) for number in range(200)]


def test_what_is_large_comes_whole(ends: tuple[End, End]) -> None:
    one, other = ends
    one.link.send(b"x" * (20 << 20))
    other.wait(lambda: other.heard)
    assert other.heard == [b"x" * (20 << 20)]


def test_one_that_hangs_up_is_lost_once_by_the_other_alone(ends: tuple[End, End]) -> None:
    one, other = ends
    one.link.close()
    other.wait(lambda: other.lost)
    other.link.close()

    assert other.lost == ["its pytest has ended"]
    assert one.lost == []
    assert not one.link.open
    assert not other.link.open
    assert threads() == []


def test_nothing_is_sent_after_the_end(ends: tuple[End, End]) -> None:
    one, other = ends
    one.link.close()
    one.link.send("word")
    other.wait(lambda: other.lost)
    assert other.heard == []


def test_drained_words_arrive(ends: tuple[End, End]) -> None:
    one, other = ends
    for number in range(50):
        one.link.send(number)
    one.link.drain(LONG)
    one.link.close()
    other.wait(lambda: other.lost)
    assert other.heard == list(range(50))


def test_one_that_says_nothing_is_lost(sockets: tuple[socket.socket, socket.socket]) -> None:
    one = End(sockets[0], silence=1.5)
    one.link.start()
    one.wait(lambda: one.lost)
    one.link.close()
    assert len(one.lost) == 1
    assert one.lost[0].startswith("nothing was heard of it for ")


def test_one_that_answers_is_not_lost(sockets: tuple[socket.socket, socket.socket]) -> None:
    # Nothing but the pulse is said for more than the silence of both; a busy machine gets seconds.
    one, other = End(sockets[0], silence=20), End(sockets[1], silence=20)
    one.link.start()
    other.link.start()
    assert one.link.measured.wait(LONG)
    assert other.link.measured.wait(LONG)
    assert one.lost == other.lost == []
    one.link.close()
    other.link.close()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame(b"no pickle"), "what it said was no message (UnpicklingError: "),
        (frame(b""), "what it said was no message (UnpicklingError"),
        (frame(pickle.dumps(1)[:-1]), "what it said was no message (UnpicklingError"),
        (frame(b"cno_such_module\nname\n."), "what it said was no message (ModuleNotFoundError: "),
        (struct.pack("!i", 100) + b"too few", "its pytest has ended"),
        (b"\x00", "its pytest has ended"),
    ],
)
def test_what_is_no_message_ends_the_link(end: tuple[End, socket.socket], data: bytes, why: str) -> None:
    one, there = end
    one.link.start()
    there.sendall(data)
    if len(data) != 4 + int.from_bytes(data[:4], "big"):
        there.close()
    one.wait(lambda: one.lost)
    assert one.lost[0].startswith(why), one.lost
    assert one.heard == []


def test_who_sends_does_not_wait_for_one_that_does_not_read(end: tuple[End, socket.socket]) -> None:
    one, _there = end
    one.link.start()
    for _ in range(100):
        one.link.send(b"x" * (1 << 20))  # no more than a few fit into the sockets
    assert not one.link.has_room()
    one.link.close()
    assert threads() == []


def test_there_is_room_again_when_the_other_reads(end: tuple[End, socket.socket]) -> None:
    one, there = end
    one.link.start()
    for _ in range(100):
        one.link.send(b"x" * (1 << 18))
    reader = Connection(there.detach())
    thread = threading.Thread(target=lambda: [reader.recv_bytes() for _ in range(60)])
    thread.start()
    thread.join(LONG)
    assert one.link.has_room() or one.link.open
    assert not thread.is_alive()
    assert one.lost == []
    reader.close()


def test_the_other_clock_is_told_by_the_quickest_answer(end: tuple[End, socket.socket]) -> None:
    one, there = end
    connection = Connection(there.detach())
    one.link.start()
    ping = pickle.loads(connection.recv_bytes())
    assert isinstance(ping, Ping)
    ahead = 1_000_000_000_000  # of a machine that has run for so much longer
    connection.send_bytes(pickle.dumps(Pong(sent_ns=ping.sent_ns, here_ns=clock.monotonic_ns() + ahead)))
    assert one.link.measured.wait(LONG)
    assert abs(one.link.shift_ns + ahead) < 20_000_000_000

    before = one.link.shift_ns
    # A slower one tells less: it is as if it had been sent long ago.
    connection.send_bytes(pickle.dumps(Pong(sent_ns=ping.sent_ns - 3_600_000_000_000, here_ns=0)))
    connection.send_bytes(pickle.dumps("heard"))
    one.wait(lambda: one.heard)
    assert one.link.shift_ns == before
    connection.close()


def test_a_ping_is_answered_with_its_time(end: tuple[End, socket.socket]) -> None:
    one, there = end
    connection = Connection(there.detach())
    one.link.start()
    connection.send_bytes(pickle.dumps(Ping(sent_ns=5)))
    while True:
        answer = pickle.loads(connection.recv_bytes())
        if isinstance(answer, Pong):
            break
    assert answer.sent_ns == 5
    assert one.heard == []
    connection.close()
