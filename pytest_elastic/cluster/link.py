"""The connection between two controllers: messages in both directions, and a pulse by which each knows of the other.

Whoever sends never waits for the network, and nobody is unpickled who has not proven that he holds the run's key.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import queue
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from pytest_elastic import clock, kernel
from pytest_elastic.cluster.messages import GoodBye, Ping, Pong

_PULSE: Final = 1.0
"""Seconds between two questions whether the other end is there."""
_LAST: Final = 5.0
"""Seconds that whoever sends gets to see that the link has ended; it is told at once."""
_FULL: Final = 8
"""Messages that may wait to be sent before those who can wait do."""
_FAREWELL: Final = 0.2
_FIRST, _ORDINARY, _LAST_OF_ALL = range(3)


class Link:
    """One end.

    Args:
        connection: The connection, both ends of which are proven.
        silence: Seconds without a word after which the other end counts as lost.
        hear: Takes each message, in a thread of the link.
        lost: Is told, once, why nothing more is going to come; not after :meth:`close`.

    Attributes:
        shift_ns: What is added to the other end's clock to have that of this one, as far as is known.
        measured: Set when it is known.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        silence: float,
        hear: Callable[[Any], None],
        lost: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._silence = silence
        self._hear = hear
        self._lost = lost
        self._outgoing: queue.PriorityQueue[tuple[int, int, bytes]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._heard = clock.monotonic()
        self._ended = threading.Event()
        self._once = threading.Lock()
        self._best_trip: int | None = None
        self._owner = kernel.own_pid()
        self.shift_ns = 0
        self.measured: Final = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"elastic-link-{work.__name__.strip('_')}", daemon=True)
            for work in (self._read, self._write, self._pulse)
        ]
        self._writer: Final = self._threads[1]

    def start(self) -> None:
        """Begin to listen."""
        self._heard = clock.monotonic()
        for thread in self._threads:
            thread.start()

    def send(self, message: object) -> None:
        """Send a message, soon; nothing happens if the link is lost."""
        if not self._ended.is_set() and kernel.own_pid() == self._owner:
            self._put(_ORDINARY, pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    def _send_first(self, message: object) -> None:
        """Send a word of the link's own, before what waits."""
        if not self._ended.is_set():
            self._put(_FIRST, pickle.dumps(message))

    def _put(self, priority: int, data: bytes) -> None:
        self._outgoing.put((priority, next(self._numbers), data))

    def has_room(self) -> bool:
        """Tell whether not too much waits to be sent."""
        return self._outgoing.qsize() < _FULL

    @property
    def silent_for(self) -> float:
        """Seconds for which nothing was heard."""
        return clock.monotonic() - self._heard

    @property
    def open(self) -> bool:
        """Nothing is known of its end."""
        return not self._ended.is_set()

    def drain(self, seconds: float) -> None:
        """Send nothing more, and wait for some seconds at most until what was sent before has gone out."""
        self._put(_LAST_OF_ALL, b"")
        self._writer.join(seconds)

    def close(self) -> None:
        """Hang up."""
        self._end(None)
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join(1.0)

    def _end(self, reason: str | None) -> None:
        with self._once:
            if self._ended.is_set():
                return
            self._ended.set()
            self._put(_FIRST, b"")
            with contextlib.suppress(OSError), socket.socket(fileno=self._descriptor()) as end:
                end.shutdown(socket.SHUT_RDWR)
        if reason is not None:
            self._lost(reason)

    def _descriptor(self) -> int:
        return os.dup(self._connection.fileno())

    def _read(self) -> None:
        reason = "its pytest has ended"
        try:
            while not self._ended.is_set():
                message = _unpickled(self._connection.recv_bytes())
                self._heard = clock.monotonic()
                self._take(message)
        except EOFError:
            pass
        except OSError as error:
            # It ended within a message, or before it had read all: that is how the system says it then.
            if error.errno not in (None, errno.ECONNRESET):
                reason = f"the connection to it broke: {error.strerror}"
        except Exception as error:  # noqa: BLE001 (what is no message ends the link, whatever it raises)
            reason = f"what it said was no message ({type(error).__name__}: {error})"
        self._end(reason)
        if self._writer.ident is not None:
            self._writer.join(_LAST)
        if not self._writer.is_alive():  # it would write to whatever has the number of the descriptor next
            self._connection.close()

    def _take(self, message: Any) -> None:
        if isinstance(message, GoodBye):
            self._end(message.reason)
        elif isinstance(message, Ping):
            self._send_first(Pong(sent_ns=message.sent_ns, here_ns=clock.monotonic_ns()))
        elif isinstance(message, Pong):
            now = clock.monotonic_ns()
            trip = now - message.sent_ns
            # The quickest answer tells most exactly when it was given.
            if self._best_trip is None or trip < self._best_trip:
                self._best_trip = trip
                self.shift_ns = message.sent_ns + trip // 2 - message.here_ns
            self.measured.set()
        else:
            self._hear(message)

    def _write(self) -> None:
        while data := self._outgoing.get()[2]:
            try:
                self._connection.send_bytes(data)
            except (OSError, ValueError):
                return  # whoever reads says why

    def _pulse(self) -> None:
        while True:
            self._send_first(Ping(sent_ns=clock.monotonic_ns()))
            if self._ended.wait(_PULSE):
                return
            silent = clock.monotonic() - self._heard
            if silent > self._silence:
                self._send_first(GoodBye(reason=f"it had not heard of this one for {silent:.0f} s, and gave it up"))
                self._ended.wait(_FAREWELL)
                self._end(f"nothing was heard of it for {silent:.0f} s")
                return


def _unpickled(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except EOFError as error:  # is not the end of the link
        raise pickle.UnpicklingError(str(error)) from None
