"""A controller that follows: it starts and ends agents and ranks on its machine, at the word of the first one."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import TYPE_CHECKING, Any, Final

from pytest_elastic import clock
from pytest_elastic.channel import limit_waits
from pytest_elastic.cluster.addresses import Address
from pytest_elastic.cluster.collection import collected_by_server
from pytest_elastic.cluster.key import derive
from pytest_elastic.cluster.link import Link
from pytest_elastic.cluster.meeting import MeetingError, reach_first
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.messages import (
    Collect,
    Collected,
    Hello,
    LeaveAlone,
    Refused,
    Release,
    StartAgent,
    ToLaunch,
)
from pytest_elastic.cluster.node_launch import NodeLaunch
from pytest_elastic.cluster.surroundings import clock_of_this_machine, versions
from pytest_elastic.errors import ElasticError

if TYPE_CHECKING:
    from pytest_elastic.controller.run import ElasticRun

_PROOF: Final = 10.0
_STAY: Final = 1.0
_ENDING: Final = 10.0
"""Seconds that launches get to leave nothing when nobody wants to know of them any more."""
_TRY: Final = 0.5
_REFUSALS: Final = 2
_SILENT_AGAIN: Final = 3.0
"""How many times the silence after which the first controller counts as lost it is looked for again."""


class RefusedError(ElasticError):
    """The first controller does not want this one."""


class FirstLostError(ElasticError):
    """The first controller is gone."""


class _Lost:
    """Stands among the messages for the end of the link."""

    def __init__(self, reason: str) -> None:
        self.reason: Final = reason


class Follower:
    """The link to the first controller, and the launches on this machine.

    Args:
        membership: What this controller is.
        key: Key of the run.
        arguments: What it was asked to do.
        silence: Seconds without a word after which the first one counts as lost.
        patience: Seconds in which it is to be found.
        log: Takes a line for the log of this controller.
    """

    def __init__(
        self,
        membership: Membership,
        key: bytes,
        *,
        arguments: tuple[str, ...],
        silence: float,
        patience: float,
        log: Callable[[str], None],
    ) -> None:
        self._membership = membership
        self._arguments = arguments
        self._key = key
        self._silence = silence
        self._patience = patience
        self._log = log
        self._news: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._launches: dict[str, NodeLaunch] = {}
        self._link: Link | None = None
        self._address = ""

    def join(self) -> None:
        """Find the first controller, and tell it who this one is.

        Raises:
            MeetingError: It was not found.
            RefusedError: It does not want this one.
        """
        self._connect(self._patience)

    def _connect(self, seconds: float) -> None:
        def greet(sock: socket.socket, _: Address) -> Connection:
            return self._greet(sock)

        connection = reach_first(self._membership, derive(self._key, "meeting"), clock.monotonic() + seconds, greet)
        news = self._news
        link = Link(connection, silence=self._silence, hear=news.put, lost=lambda reason: news.put(_Lost(reason)))
        self._link = link
        link.start()

    def _greet(self, sock: socket.socket) -> Connection:
        me = self._membership
        self._address = str(sock.getsockname()[0]).removeprefix("::ffff:")
        limit_waits(sock, _PROOF)
        connection = Connection(os.dup(sock.fileno()))
        try:
            key = derive(self._key, f"link {me.identity}")
            answer_challenge(connection, key)
            deliver_challenge(connection, key)
            hello = Hello(
                rank=me.rank,
                size=me.size,
                nodes=me.nodes,
                local_size=me.local_size,
                host=socket.gethostname(),
                address=self._address,
                pid=os.getpid(),
                versions=versions(),
                arguments=self._arguments,
                clock=clock_of_this_machine(),
            )
            connection.send_bytes(pickle.dumps(hello))
            answer = pickle.loads(connection.recv_bytes())
        except BaseException:
            connection.close()
            raise
        if isinstance(answer, Refused):
            connection.close()
            raise RefusedError(answer.reason)
        limit_waits(sock, 0)
        sock.close()
        return connection

    def serve(self, run: ElasticRun) -> int | None:
        """Start and end what the first controller says, until it has no more use for this one.

        Args:
            run: What this session holds.

        Returns:
            pytest's exit code; ``None`` where each process is to have a session of its own.

        Raises:
            FirstLostError: It is gone, and does not come back.
        """
        while True:
            message = self._next()
            if isinstance(message, Release):
                self._end_all()
                return message.exitcode
            if isinstance(message, _Lost):
                self._log(f"the first controller was lost: {message.reason}; what it had started here is ended")
                self._end_all()
                self._come_back(message.reason)
            elif isinstance(message, LeaveAlone):
                return None
            elif isinstance(message, Collect):
                collecting = threading.Thread(
                    target=self._collect, args=(message, run), name="elastic-collecting", daemon=True
                )
                collecting.start()
            elif isinstance(message, StartAgent):
                self._start(message, run)
            elif isinstance(message, ToLaunch):
                launch = self._launches.get(message.launch)
                if launch is not None:
                    launch.take(message)
            self._forget_those_that_are_over()

    def outlast_first(self) -> None:
        """Wait until the first controller has ended, or hung up: launchers blame whoever ends first."""
        until = clock.monotonic() + _STAY
        while (left := until - clock.monotonic()) > 0 and self._link is not None and self._link.open:
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=left)

    def _next(self) -> Any:
        while True:
            try:
                return self._news.get(timeout=0.5)  # a wait without a time-out does not let Ctrl-C through everywhere
            except queue.Empty:
                continue

    def _collect(self, wanted: Collect, run: ElasticRun) -> None:
        link = self._link
        try:
            run.follow(wanted.order)
            collected = collected_by_server(run, wanted.everything)
        except (ElasticError, OSError) as error:
            collected = Collected(tests=(), trouble=str(error))
        if link is not None:
            link.send(collected)

    def _start(self, order: StartAgent, run: ElasticRun) -> None:
        link = self._link
        assert link is not None
        launch = self._launches[order.launch] = NodeLaunch(
            order,
            run,
            key=self._key,
            address=self._address,
            tell=link.send,
            has_room=link.has_room,
        )
        launch.start()

    def _forget_those_that_are_over(self) -> None:
        for name in [name for name, launch in self._launches.items() if launch.done.is_set()]:
            del self._launches[name]

    def _end_all(self) -> None:
        for launch in self._launches.values():
            launch.abandon()
        for launch in self._launches.values():
            launch.done.wait(_ENDING)
        self._launches.clear()

    def _come_back(self, reason: str) -> None:
        """Look for the first controller again: the network may have been cut."""
        if self._link is not None:
            self._link.close()
            self._link = None
        until = clock.monotonic() + self._silence * _SILENT_AGAIN
        refusals = 0
        while True:
            try:
                self._connect(_TRY)
            except (MeetingError, RefusedError) as error:
                # Where its machine answers that nobody listens, it has ended.
                refusals = refusals + 1 if "refused" in str(error) else 0
                if isinstance(error, MeetingError) and refusals < _REFUSALS and clock.monotonic() < until:
                    continue
                raise FirstLostError(f"the first controller was lost ({reason}) and is not there any more") from None
            self._log("the first controller is there again")
            return

    def close(self) -> None:
        """End everything, and hang up."""
        self._end_all()
        if self._link is not None:
            self._link.close()
            self._link = None
