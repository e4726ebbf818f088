"""Whatever comes over the channel: it is cut into frames and unpickled, or the connection is at its end."""

from __future__ import annotations

import pickle
import resource
import selectors
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_elastic.channel import FrameDecoder, Peer, Reception, header
from pytest_elastic.messages import AgentHello, EventRecorded, RankExited, RankFinished, RankHello, RankId, RankLogged

from ..fuzzing import fuzz

ID = RankId(world="w", rank=1, local_rank=1, node=0, group_rank=0, world_size=2, restart=0)
MESSAGES: list[object] = [
    AgentHello(node=0, pid=17, broken=None, unsafe="numpy"),
    RankHello(id=ID, pid=18, writes_stacks=True),
    RankLogged(id=ID, text="a line\n" * 20),
    EventRecorded(node=0, event="{}"),
    RankFinished(id=ID, time_ns=5, started_ns=1, value=b"x" * 40_000, leftovers=("thread",)),
    RankExited(id=ID, exitcode=-9, time_ns=6, stopped=False),
    "no message of ours",
    {"nor": ["this", 1]},
]
messages = st.lists(st.sampled_from(MESSAGES), max_size=6)
_SPARE = 1 << 30


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Have what allocates much more than it is sent fail, and not the machine."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _SPARE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def stream_of(sent: list[object]) -> bytes:
    data = [pickle.dumps(message) for message in sent]
    return b"".join(header(len(each)) + each for each in data)


def heard(stream: bytes, cuts: list[int]) -> tuple[list[object], bool]:
    """Return what a peer understands of a stream that comes in pieces and ends, and whether it is at its end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    peer = Peer(ours)
    found: list[object] = []
    with theirs:
        pieces = [1 << 15] * (len(stream) >> 15) + [*cuts, 1 << 15]
        while stream and not peer.gone():
            size = pieces.pop() if pieces else 1 << 15
            theirs.sendall(stream[:size])  # not more than a socket takes at once, whoever listens
            stream = stream[size:]
            found += peer.messages()
    found += peer.messages()
    gone = peer.gone()
    peer.close()
    return found, gone


cuts = st.lists(st.integers(1, 5_000), max_size=8)


@fuzz(40)
@given(sent=messages, cuts=cuts)
def test_a_stream_is_understood_however_it_is_cut(sent: list[object], cuts: list[int]) -> None:
    assert heard(stream_of(sent), cuts) == (sent, True)


@fuzz(80)
@given(sent=messages, cuts=cuts, noise=st.binary(min_size=1, max_size=300), where=st.floats(0, 1))
def test_noise_ends_the_connection_and_takes_nothing_away_from_what_came_before(
    sent: list[object], cuts: list[int], noise: bytes, where: float
) -> None:
    whole = int(where * len(sent))
    before, after = stream_of(sent[:whole]), stream_of(sent[whole:])
    found, gone = heard(before + noise + after, cuts)
    assert gone
    assert found[:whole] == sent[:whole]


@fuzz(80)
@given(sent=messages.filter(bool), cuts=cuts, flips=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4))
def test_flipped_bits(sent: list[object], cuts: list[int], flips: list[float]) -> None:
    stream = bytearray(stream_of(sent))
    bits = {int(flip * len(stream) * 8) for flip in flips}
    for bit in bits:
        stream[bit // 8] ^= 1 << bit % 8
    found, gone = heard(bytes(stream), cuts)
    assert gone
    ends = [len(stream_of(sent[:number])) for number in range(len(sent) + 1)]
    whole = max(number for number, end in enumerate(ends) if end <= min(bits) // 8)
    assert found[:whole] == sent[:whole]


@fuzz(40)
@given(sent=messages.filter(bool), cuts=cuts, where=st.floats(0, 1, exclude_max=True))
def test_a_stream_that_breaks_off(sent: list[object], cuts: list[int], where: float) -> None:
    stream = stream_of(sent)[: int(where * len(stream_of(sent)))]
    found, gone = heard(stream, cuts)
    assert gone
    assert found == sent[: len(found)]


@fuzz(200)
@given(size=st.integers(-(2**31), 2**64 - 1), rest=st.binary(max_size=100))
def test_a_size_is_believed_when_so_much_has_come(size: int, rest: bytes) -> None:
    decoder = FrameDecoder()
    short = struct.pack("!i", size) if size < 2**31 else struct.pack("!iQ", -1, size)
    if size == -1:
        rest = struct.pack("!Q", 2**63) + rest
    try:
        frames = decoder.feed(short + rest)
    except ValueError:
        assert size < -1
        return
    assert len(frames) <= 1 + len(rest) // 4
    assert sys.getsizeof(decoder._buffer) < 1_000


@fuzz(40)
@given(noise=st.lists(st.binary(max_size=200), max_size=4), framed=st.booleans())
def test_who_does_not_know_the_key_is_not_heard(tmp_path: Path, noise: list[bytes], framed: bool) -> None:
    welcome: list[Peer] = []
    path = tmp_path / "s"
    with selectors.DefaultSelector() as selector:
        reception = Reception(str(path), b"key" * 10, selector, welcome.append)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            for key, _ in selector.select(5):
                key.data()
            try:
                for each in noise:
                    caller.sendall((header(len(each)) if framed else b"") + each)
            except OSError:  # it has been shown the door
                pass
        reception.settle()
        reception.close()
    assert welcome == []
