from __future__ import annotations

import os
import pickle
import selectors
import socket
import struct
import threading
from multiprocessing.connection import Connection, Listener
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_elastic.channel import FrameDecoder, Outbox, Peer, Reception

from ..fuzzing import fuzz


def frames_of(payloads: list[bytes]) -> bytes:
    """What ``multiprocessing.connection`` really writes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(theirs.detach())
        for payload in payloads:
            connection.send_bytes(payload)
        connection.close()
        data = b""
        while chunk := ours.recv(1 << 16):
            data += chunk
        return data


@fuzz(100)
@given(payloads=st.lists(st.binary(max_size=300), max_size=20), cuts=st.lists(st.integers(1, 200), max_size=50))
def test_frames_survive_being_cut_anywhere(payloads: list[bytes], cuts: list[int]) -> None:
    data = frames_of(payloads)
    decoder = FrameDecoder()
    found = []
    for cut in cuts:
        found += decoder.feed(data[:cut])
        data = data[cut:]
    found += decoder.feed(data)
    assert found == payloads


def test_a_long_frame_has_a_long_header() -> None:
    decoder = FrameDecoder()
    header = struct.pack("!i", -1) + struct.pack("!Q", 5)
    assert decoder.feed(header[:7]) == []
    assert decoder.feed(header[7:] + b"hel") == []
    assert decoder.feed(b"lo") == [b"hello"]


def test_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="frame of -7 bytes"):
        FrameDecoder().feed(struct.pack("!i", -7))


@fuzz(100)
@given(noise=st.binary(max_size=400))
def test_noise_neither_hangs_nor_crashes_the_decoder(noise: bytes) -> None:
    decoder = FrameDecoder()
    try:
        frames = decoder.feed(noise)
    except ValueError:
        return
    assert sum(len(frame) + 4 for frame in frames) <= len(noise)


def test_a_peer_gives_whole_messages_only_and_never_blocks() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    peer = Peer(ours)
    data = frames_of([pickle.dumps("one"), pickle.dumps("two")])
    with theirs:
        assert peer.messages() == []
        theirs.sendall(data[:-3])
        assert peer.messages() == ["one"]
        theirs.sendall(data[-3:])
    assert peer.messages() == ["two"]
    assert peer.gone()
    peer.close()


def test_a_peer_that_dies_in_the_middle_of_a_message_is_gone() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    peer = Peer(ours)
    theirs.sendall(frames_of([b"x" * 100])[:50])
    theirs.close()
    assert peer.messages() == []
    assert peer.gone()
    peer.close()


def test_what_a_controller_sends_a_connection_reads() -> None:
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    peer.send({"go": 1})
    connection = Connection(theirs.detach())
    assert pickle.loads(connection.recv_bytes()) == {"go": 1}
    connection.close()
    peer.close()


def test_a_closed_outbox_says_nothing_and_calls_nobody(tmp_path: Path) -> None:
    key, address = b"key", str(tmp_path / "socket")
    with Listener(address, authkey=key) as listener:
        answers: list[Connection] = []
        thread = threading.Thread(target=lambda: answers.append(listener.accept()))
        thread.start()
        outbox = Outbox(address, key)
        thread.join(10)
        outbox.close()
        with pytest.raises(OSError, match="nobody listens"):
            outbox.send("late")
        with pytest.raises(EOFError):
            answers[0].recv()
        answers[0].close()


def test_closing_an_outbox_ends_a_send_that_is_under_way(tmp_path: Path) -> None:
    key, address = b"key", str(tmp_path / "socket")
    with Listener(address, authkey=key) as listener:
        answers: list[Connection] = []
        thread = threading.Thread(target=lambda: answers.append(listener.accept()))
        thread.start()
        outbox = Outbox(address, key)
        thread.join(10)
        ended: list[bool] = []

        def send() -> None:
            try:
                outbox.send(b"x" * 50_000_000)  # nobody reads it
            except OSError:
                ended.append(True)

        sender = threading.Thread(target=send)
        sender.start()
        assert answers[0].poll(10)  # it has begun
        outbox.close()
        sender.join(10)
        assert ended == [True]
        answers[0].close()


def test_noise_ends_a_connection_and_is_told_and_no_memory_is_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        peer = Peer(ours)
        theirs.sendall(frames_of([pickle.dumps("fine"), b"no pickle"]))
        assert peer.messages() == ["fine"]
        assert peer.gone()
        assert peer.noise.startswith("UnpicklingError: ")
        peer.close()
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        peer = Peer(ours)
        theirs.sendall(frames_of([pickle.dumps("fine")]))

        def refuse(data: bytes) -> None:
            raise MemoryError

        monkeypatch.setattr(pickle, "loads", refuse)
        with pytest.raises(MemoryError):
            peer.messages()
        peer.close()


def test_a_reception_that_can_start_no_thread_can_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as caller:
        reception = Reception(str(tmp_path / "s"), b"key", selector, lambda peer: None)
        caller.connect(str(tmp_path / "s"))

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            [(key, _)] = selector.select(60)
            with pytest.raises(RuntimeError, match="start new thread"):
                key.data()
        reception.close()
        assert caller.recv(100) == b""
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert list(tmp_path.iterdir()) == []
