"""The controllers that follow the first one, as that one knows them."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any, Final

from pytest_elastic import clock, kernel
from pytest_elastic.channel import limit_waits
from pytest_elastic.cluster.link import Link
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.messages import Collected, Hello, OfLaunch, Refused, Welcome
from pytest_elastic.cluster.surroundings import clock_of_this_machine, versions
from pytest_elastic.controller.nodes import NodeLost

_CALLERS: Final = 100
"""How many may be in the middle of their proof."""
_BUSY: Final = 0.1
_SURELY: Final = 3.0
"""Seconds in which one that lives has said so."""
_PROOF: Final = 10.0
"""Seconds that a caller gets to prove itself, and to say who it is."""
_MEASURE: Final = 5.0
_TOLD: Final = 3
"""How many strangers are told of: anybody can call."""


class _Unreadable:
    """Stands for a first word that was no message of this version."""

    def __init__(self, why: str) -> None:
        self.why: Final = why


def _read(data: bytes) -> object:
    """Unpickle what somebody said who has proven the key."""
    try:
        return pickle.loads(data)
    except Exception as error:  # noqa: BLE001 (whatever is raised by what another version has sent)
        return _Unreadable(" ".join(f"{type(error).__name__}: {error}".split()))


class FollowingController:
    """One controller that follows, from its first word to its loss.

    Attributes:
        hello: What it said of itself.
        collected: What it has collected, or ``None`` as long as it has not said so.
        lost: Why nothing more is to come, or an empty text.
        lost_at: When that was known, by the clock.
        local_address: Address of this machine by which it is reached.
    """

    def __init__(self, hello: Hello, local_address: str, changed: threading.Condition) -> None:
        self.hello: Final = hello
        self.local_address: Final = local_address
        self.collected: Collected | None = None
        self.lost = ""
        self.lost_at = 0.0
        self.link: Link | None = None
        self._changed = changed
        self._launches: dict[str, Callable[[Any], None]] = {}

    @property
    def host(self) -> str:
        """Name of its machine."""
        return self.hello.host

    @property
    def shift_ns(self) -> int:
        """What is added to its clock to have that of this machine."""
        if self.hello.clock == clock_of_this_machine() or self.link is None:
            return 0
        self.link.measured.wait(_MEASURE)
        return self.link.shift_ns

    def open(self, launch: str, hear: Callable[[Any], None]) -> None:
        """Have what it says of a launch be heard, and its loss."""
        with self._changed:
            self._launches[launch] = hear
            lost = self.lost
        if lost:
            hear(NodeLost(lost))

    def close(self, launch: str) -> None:
        """Have nothing more be heard of a launch."""
        with self._changed:
            self._launches.pop(launch, None)

    def tell(self, message: object) -> None:
        """Send it a message, soon."""
        if self.link is not None:
            self.link.send(message)

    def hear(self, message: object) -> None:
        """Take what it says."""
        if isinstance(message, Collected):
            with self._changed:
                self.collected = message
                self._changed.notify_all()
        elif isinstance(message, OfLaunch):
            with self._changed:
                hear = self._launches.get(message.launch)
            if hear is not None:
                hear(message)

    def lose(self, reason: str) -> None:
        """Take note that nothing more is to come."""
        with self._changed:
            if self.lost:
                return
            self.lost, self.lost_at = reason, clock.monotonic()
            launches = list(self._launches.values())
            self._changed.notify_all()
        for hear in launches:
            hear(NodeLost(reason))


class Members:
    """All controllers that follow. Callers are taken in threads of their own.

    Args:
        listener: Where they call.
        key: Key of the run.
        membership: What this controller is.
        silence: Seconds without a word after which one counts as lost.

    Attributes:
        changed: Notified when one has come, has collected, or is lost.
        refusals: Why callers were turned away, a line each.
        hopeless: Why one that is waited for was turned away, or an empty text.
        strangers: Addresses of callers that did not know the key.
        came: Is told of each controller that has come, with ``changed`` held.
    """

    def __init__(self, listener: socket.socket, key: bytes, membership: Membership, *, silence: float) -> None:
        self._listener = listener
        self._key = key
        self._membership = membership
        self._silence = silence
        self._there: dict[int, FollowingController] = {}
        self._closed = False
        self._greeting = 0
        self._owner = kernel.own_pid()
        self.changed: Final = threading.Condition(threading.RLock())
        self.refusals: Final[list[str]] = []
        self.hopeless = ""
        self.strangers: Final[list[str]] = []
        self.came: Callable[[FollowingController], None] = lambda _: None
        self._thread = threading.Thread(target=self._accept, name="elastic-members", daemon=True)
        self._thread.start()

    def get(self, rank: int) -> FollowingController | None:
        """Return a controller, which may be lost; ``None`` if it has not come so far."""
        with self.changed:
            return self._there.get(rank)

    def wait(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so, which may change whenever :attr:`changed` is notified."""
        until = clock.monotonic() + seconds
        with self.changed:
            while not reached():
                left = until - clock.monotonic()
                if left <= 0:
                    return False
                self.changed.wait(min(left, 0.5))  # a wait without a time-out does not let Ctrl-C through everywhere
        return True

    def _accept(self) -> None:
        while True:
            try:
                caller, address = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                kernel.pause(_BUSY)  # no descriptor is left for another one, say
                continue
            if self._greeting >= _CALLERS:
                caller.close()
                continue
            threading.Thread(
                target=self._greet, args=(caller, str(address[0])), name="elastic-greeting", daemon=True
            ).start()

    def _greet(self, caller: socket.socket, address: str) -> None:
        with self.changed:
            self._greeting += 1
        try:
            self._prove(caller, address)
        finally:
            with self.changed:
                self._greeting -= 1

    def _prove(self, caller: socket.socket, address: str) -> None:
        try:
            with caller:
                caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                limit_waits(caller, _PROOF)
                connection = Connection(os.dup(caller.fileno()))
                local = str(caller.getsockname()[0]).removeprefix("::ffff:")
                try:
                    deliver_challenge(connection, self._key)
                    answer_challenge(connection, self._key)
                    reason = self._refusal(hello := _read(connection.recv_bytes()))
                    connection.send_bytes(
                        pickle.dumps(Refused(reason=reason) if reason else Welcome(run=self._membership.run_id))
                    )
                except BaseException:
                    connection.close()
                    raise
                limit_waits(caller, 0)
        except AuthenticationError:
            with self.changed:
                if address not in self.strangers and len(self.strangers) < _TOLD:
                    self.strangers.append(address)
                self.changed.notify_all()
            return
        except (EOFError, OSError):
            return  # nobody
        if reason or not isinstance(hello, Hello):
            connection.close()
            with self.changed:
                self.refusals.append(reason)
                if isinstance(hello, Hello) and self._is_wanted(hello):
                    self.hopeless = reason
                self.changed.notify_all()
            return
        self._welcome(hello, connection, local)

    def _refusal(self, hello: object) -> str:
        if isinstance(hello, _Unreadable):
            return f"what a caller said cannot be read ({hello.why}); install the same versions on every node"
        if not isinstance(hello, Hello):
            return f"a caller said {type(hello).__name__}, not who it is"
        who = f"{hello.host} (pid {hello.pid})"
        me = self._membership
        layout = (hello.size, hello.nodes, hello.local_size)
        if not 0 < hello.rank < me.size or layout != (me.size, me.nodes, me.local_size):
            return (
                f"{who} says that it is number {hello.rank} of {hello.size} pytest processes, {hello.local_size} on "
                f"each of {hello.nodes} nodes, but the first is of {me.size}, {me.local_size} on each of {me.nodes}; "
                "start all of them alike"
            )
        if (other := self._one_that_is_here(hello)) is not None:
            there = f"{other.host} (pid {other.hello.pid})"
            return f"{who} says that it is number {hello.rank}, as {there} is already; start each of them once"
        here = versions()
        theirs = hello.versions
        differing = [f"{name} {theirs.get(name)}, not {own}" for name, own in here.items() if theirs.get(name) != own]
        if differing:
            return f"{who} has {', '.join(differing)}; install the same versions on every node"
        return ""

    def _is_wanted(self, hello: Hello) -> bool:
        me = self._membership
        return (hello.size, hello.nodes) == (me.size, me.nodes) and self._there.get(hello.rank) is None

    def _one_that_is_here(self, hello: Hello) -> FollowingController | None:
        """Return another controller that has the number already, when it has not turned out to be lost."""
        before = self.get(hello.rank)
        if before is None or (before.hello.host, before.hello.pid) == (hello.host, hello.pid):
            return None
        until = clock.monotonic() + _SURELY
        while not before.lost and clock.monotonic() < until:
            if before.link is not None and before.link.silent_for > _SURELY:
                return None
            kernel.pause(_BUSY)
        return None if before.lost else before

    def _welcome(self, hello: Hello, connection: Connection, local: str) -> None:
        member = FollowingController(hello, local, self.changed)
        member.link = Link(connection, silence=self._silence, hear=member.hear, lost=member.lose)
        with self.changed:
            before = self._there.get(hello.rank)
            closed = self._closed
        if before is not None:
            before.lose("it was started again")
            if before.link is not None:
                before.link.close()
        if closed:
            connection.close()
            return
        with self.changed:
            self._there[hello.rank] = member
            member.link.start()
            self.came(member)
            self.changed.notify_all()

    def close(self, last: object, drain: float, stay: float) -> None:
        """Say a last word to everybody; hang up later, or when this process ends.

        Launchers blame whoever ends first, and end the others: that is to be the first controller.

        Args:
            last: The word.
            drain: Seconds that it gets to go out.
            stay: Seconds until this process hangs up, if it lives for so long.
        """
        if kernel.own_pid() != self._owner:
            return
        with self.changed:
            self._closed = True
            members = list(self._there.values())
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        links = [member.link for member in members if member.link is not None]
        for link in links:
            link.send(last)
        for link in links:
            link.drain(drain)
        for member in members:
            member.lose("the run is over")  # no launch waits for an answer
        self._thread.join(1.0)

        def hang_up() -> None:
            threading.Event().wait(stay)
            for link in links:
                link.close()

        threading.Thread(target=hang_up, name="elastic-hanging-up", daemon=True).start()
