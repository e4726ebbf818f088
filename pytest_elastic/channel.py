"""The channel from ranks and agents to the controller.

Both ends prove that they hold the launch's random key (``multiprocessing.connection``'s challenge) before anything
is unpickled. Frames are those of ``multiprocessing.connection.Connection``; the controller decodes them itself,
because it reads many peers in one thread and must never block on one that stopped in the middle of a message.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import Any, Final

from pytest_elastic import kernel
from pytest_elastic.messages import Address

_SHORT: Final = struct.Struct("!i")
_LONG: Final = struct.Struct("!Q")
_CHUNK: Final = 1 << 20
_PROOF: Final = 30.0
"""Seconds that somebody on another machine gets to prove itself."""
_LAST_PROOFS: Final = 0.2
"""Seconds that callers get to prove themselves when everybody else has ended; it takes a millisecond."""


def connect(address: Address, key: bytes, timeout: float | None = None) -> Connection:
    """Connect, and prove to each other that both hold a key.

    Args:
        address: Where somebody listens.
        key: The key.
        timeout: Seconds until the other end must have taken the connection, on another machine; ``None``: the system's.

    Raises:
        OSError: Nobody listens there.
        AuthenticationError: The other end has another key.
        EOFError: It has hung up.
    """
    if isinstance(address, str):
        return Client(address, authkey=key)
    sock = socket.create_connection(address, timeout)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit_waits(sock, _PROOF if timeout is None else timeout)
        connection = Connection(os.dup(sock.fileno()))
        try:
            answer_challenge(connection, key)
            deliver_challenge(connection, key)
        except BaseException:
            connection.close()
            raise
        limit_waits(sock, 0)
    finally:
        sock.close()
    return connection


def limit_waits(sock: socket.socket, seconds: float) -> None:
    """Have reads and writes of a socket fail that take longer, also those by its descriptor; 0 for no limit."""
    sock.settimeout(None)
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)


def listen_on(host: str, port: int = 0, backlog: int = 4096) -> socket.socket:
    """Listen on an address of this machine for those on others.

    Raises:
        OSError: It is none, or the port is taken.
    """
    family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


class Outbox:
    """The end of the channel that a rank or an agent holds. Its methods may be called from any thread.

    It belongs to the process that made it: a child that this process forks says nothing in its parent's name.
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self._address, self._key = address, key
        self._owner = kernel.own_pid()
        self._connection = connect(address, key)
        self._lock = threading.Lock()
        self._lost: list[object] = []
        self._closed = False

    def send(self, message: object) -> None:
        """Send one message whole.

        Raises:
            OSError: The controller is gone.
        """
        if kernel.own_pid() != self._owner:
            return
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            if self._closed:
                raise OSError("the launch is over; nobody listens")
            try:
                self._connection.send_bytes(data)
            except OSError:
                if self._closed:
                    raise
                # A test may have closed descriptors that it did not open. If the controller is there, it listens.
                # The lost connection is kept: it would close a descriptor of that number, whosever it is now.
                self._lost.append(self._connection)
                self._connection = connect(self._address, self._key)
                self._connection.send_bytes(data)

    def receive(self) -> Any:
        """Wait for one message of the controller.

        Raises:
            EOFError: The controller is gone.
        """
        return pickle.loads(self.receive_bytes())

    def receive_bytes(self) -> bytes:
        """Wait for one frame of the controller, and return it as it is.

        Raises:
            EOFError: The controller is gone.
        """
        return self._connection.recv_bytes()

    def receive_any(self) -> Any:
        """Wait for one message; ``None`` for a frame that is none, which somebody was too late to take.

        Raises:
            EOFError: The controller is gone.
        """
        data = self.receive_bytes()
        try:
            return pickle.loads(data)
        except Exception:  # noqa: BLE001 (it may be anything)
            return None

    def receive_descriptors(self, count: int) -> list[int]:
        """Wait for descriptors that the controller passes, and return them as descriptors of this process.

        Raises:
            EOFError: The controller is gone.
        """
        with socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            data, fds, _, _ = socket.recv_fds(end, 1, count)
        if not data or len(fds) != count:
            raise EOFError("the controller is gone")
        return fds

    def hears_within(self, timeout: float) -> bool:
        """Wait for a message of the controller, or for its end, for some seconds; return whether one is there."""
        return self._connection.poll(timeout)

    def close(self) -> None:
        """Close the connection, also while another thread sends: that one fails, and so does every later message."""
        self._closed = True
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._connection.close()


def header(size: int) -> bytes:
    """Return what stands in front of a frame of a size."""
    return _SHORT.pack(size) if size < 1 << 31 else _SHORT.pack(-1) + _LONG.pack(size)


class FrameDecoder:
    """Cuts a stream of bytes into the frames that ``Connection.send_bytes`` wrote."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take some bytes and return the frames that they completed.

        Raises:
            ValueError: The stream is not one of frames; all that came before have been returned.
        """
        self._buffer += data
        frames: list[bytes] = []
        try:
            while (frame := self._next()) is not None:
                frames.append(frame)
        except ValueError:
            if not frames:
                raise
        return frames

    def _next(self) -> bytes | None:
        if len(self._buffer) < _SHORT.size:
            return None
        (size,) = _SHORT.unpack_from(self._buffer)
        start = _SHORT.size
        if size == -1:
            start += _LONG.size
            if len(self._buffer) < start:
                return None
            (size,) = _LONG.unpack_from(self._buffer, _SHORT.size)
        elif size < 0:
            raise ValueError(f"frame of {size} bytes; expected 0 or more, or -1 before a long one")
        if len(self._buffer) < start + size:
            return None
        frame = bytes(memoryview(self._buffer)[start : start + size])
        del self._buffer[: start + size]
        return frame


class Peer:
    """A rank or an agent as the controller sees it: a proven connection that never blocks.

    Attributes:
        noise: Why something that arrived was no message; empty as long as all was.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = FrameDecoder()
        self._outgoing: deque[memoryview] = deque()
        self._closed = False
        self.noise = ""

    def gone(self) -> bool:
        """Tell whether nothing more can come."""
        return self._closed

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    def messages(self) -> list[Any]:
        """Return what has arrived by now; see :meth:`gone`.

        What is no message, since somebody else has written to the connection, is the end of it; see :attr:`noise`.
        """
        messages: list[Any] = []
        while not self._closed:
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            try:
                for frame in self._decoder.feed(data):
                    messages.append(pickle.loads(frame))
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 (what a pickle of nobody's raises may be anything)
                self.noise = f"{type(error).__name__}: {error}"
                data = b""
            self._closed = not data
        return messages

    def send(self, message: object) -> None:
        """Send a message, now or later (see :meth:`flush`); a peer that is gone is not told."""
        self.send_frames(pickle.dumps(message))

    def send_frames(self, *frames: bytes) -> None:
        """Send pickles as they are. Peers that get the same bytes share them."""
        for data in frames:
            self._outgoing += (memoryview(header(len(data))), memoryview(data))
        self.flush()

    def pass_descriptors(self, fds: list[int]) -> None:
        """Have a peer that waits for them get descriptors of this process; what was sent before has gone out."""
        with contextlib.suppress(OSError):  # it is gone, which is seen elsewhere
            socket.send_fds(self._socket, [b"d"], fds)

    def flush(self) -> bool:
        """Send what the connection takes by now; return whether something is left."""
        while self._outgoing and not self._closed:
            try:
                sent = self._socket.send(self._outgoing[0])
            except BlockingIOError:
                return True
            except OSError:
                self._outgoing.clear()  # What it said before it went is still to be read.
                break
            if sent == len(self._outgoing[0]):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = self._outgoing[0][sent:]
        return False

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._socket.close()


class Reception:
    """The controller's listening end: proves each caller in a thread of its own, then hands it over.

    A caller may be stopped or killed in the middle of the proof; the others must not wait for it.

    Args:
        path: Where those of this machine connect to.
        key: What callers must hold.
        selector: Whoever waits on it calls what has happened.
        welcome: Takes a caller that has proven itself.
        host: Address of this machine for those of others; ``None`` where there are none.

    Attributes:
        address: The path.
        outside: What listens for those of other machines, or ``None``.
    """

    def __init__(
        self,
        path: str,
        key: bytes,
        selector: selectors.BaseSelector,
        welcome: Callable[[Peer], None],
        *,
        host: str | None = None,
    ) -> None:
        self.address: Final = path
        self.outside: Final[socket.socket | None] = None if host is None else listen_on(host)
        self._key = key
        self._selector = selector
        self._welcome = welcome
        self._proving: dict[threading.Thread, socket.socket] = {}
        self._proven: list[socket.socket] = []
        self._lock = threading.Lock()
        self._closed = False
        self._scarce: OSError | None = None
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(4096)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, lambda: self._accept(self._listener))
        if self.outside is not None:
            self.outside.setblocking(False)
            selector.register(self.outside, selectors.EVENT_READ, lambda: self._accept(self.outside))
        selector.register(self._wake_r, selectors.EVENT_READ, self._woken)

    def wake(self) -> None:
        """Wake the thread that waits on the selector; may be called from any thread."""
        with self._lock:
            if not self._closed:
                os.write(self._wake_w, b"w")

    def address_for(self, *, others: bool) -> Address:
        """Return where ranks and agents of this machine, or of others, connect to."""
        if not others:
            return self.address
        assert self.outside is not None
        host, port = self.outside.getsockname()[:2]
        return str(host), int(port)

    def _accept(self, listener: socket.socket | None) -> None:
        assert listener is not None
        try:
            caller, _ = listener.accept()
        except BlockingIOError:
            return
        if listener is self.outside:
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            limit_waits(caller, _PROOF)
        caller.setblocking(True)
        thread = threading.Thread(target=self._prove, args=(caller,), name="elastic-reception", daemon=True)
        with self._lock:
            try:
                thread.start()
            except RuntimeError:  # no thread can be had: the caller is told by the end of its connection
                caller.close()
                raise
            self._proving[thread] = caller

    def _prove(self, caller: socket.socket) -> None:
        proven = False
        try:
            # Its number is not to be used by others before the proof is over.
            with Connection(os.dup(caller.fileno())) as connection:
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                proven = True
        except (AuthenticationError, EOFError):
            pass
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._scarce = error
        with self._lock:
            self._proving.pop(threading.current_thread(), None)
            if proven and not self._closed:
                caller.setblocking(False)
                self._proven.append(caller)
                os.write(self._wake_w, b"w")
            else:
                caller.close()
                if self._scarce is not None and not self._closed:
                    os.write(self._wake_w, b"w")

    def _woken(self) -> None:
        self._hand_over()
        if self._scarce is not None:
            raise self._scarce

    def _hand_over(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_r, 4096)
        with self._lock:
            proven, self._proven = self._proven, []
        for caller in proven:
            self._welcome(Peer(caller))

    def settle(self) -> None:
        """Hand over whoever is about to prove itself: what a caller said last may be on its way."""
        with self._lock:
            proving = list(self._proving)
        for thread in proving:
            thread.join(_LAST_PROOFS)
        self._hand_over()

    def close(self) -> None:
        """Stop listening, and end every proof that is under way."""
        self._selector.unregister(self._listener)
        self._selector.unregister(self._wake_r)
        self._listener.close()
        if self.outside is not None:
            self._selector.unregister(self.outside)
            self.outside.close()
        with self._lock:
            self._closed = True
            proving = list(self._proving.items())
            for _, caller in proving:
                with contextlib.suppress(OSError):
                    caller.shutdown(socket.SHUT_RDWR)
        for thread, _ in proving:
            thread.join()
        with self._lock:
            for caller in self._proven:
                caller.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
        with contextlib.suppress(FileNotFoundError):  # a test has removed what it found
            os.unlink(self.address)
