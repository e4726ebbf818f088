"""Answers what the ranks of a launch ask: calls that they make together, and fixtures that the controller has.

Calls of ranks are matched in the thread that supervises the launch. What needs pytest is done by the thread that runs
the test, which waits for the ranks meanwhile.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from pytest_elastic import clock
from pytest_elastic.controller.gathering import Gathering, Settled, told
from pytest_elastic.errors import RanksDivergedError
from pytest_elastic.messages import (
    Answer,
    FactoryCalled,
    FixtureWanted,
    Meeting,
    RankAsks,
    RankExited,
    RankFailed,
    RankFinished,
    RankId,
    TestOver,
)
from pytest_elastic.refusal import refuse
from pytest_elastic.report.describe import one_line
from pytest_elastic.report.records import Wait

if TYPE_CHECKING:
    from pytest_elastic.channel import Peer

Reply = tuple[bool, bytes]
"""Whether it is a value, and that value or the :class:`~pytest_elastic.messages.Refusal`, pickled."""


_LONG_NS: Final = 10_000_000
"""What ranks wait for less than this is not kept: they may meet thousands of times."""


class Fixtures(Protocol):
    """The controller's fixtures, as the ranks of one test see them."""

    def known(self, wanted: FixtureWanted) -> Reply | None:
        """Return what is known already; may be called from any thread."""

    def reply(self, id: RankId, wanted: FixtureWanted | FactoryCalled) -> Reply:  # noqa: A002 (the field's name)
        """Return what a rank asked for; only in the thread of the test."""


class RankServices:
    """What the ranks of one launch may ask.

    Args:
        post: Sends frames to a peer, from any thread.
        in_test_thread: Has a function called by the thread that waits for the launch.
        fixtures: The fixtures, where ranks run a test.
    """

    def __init__(
        self,
        post: Callable[..., None],
        in_test_thread: Callable[[Callable[[], None]], None],
        fixtures: Fixtures | None,
    ) -> None:
        self._post = post
        self._in_test_thread = in_test_thread
        self._fixtures = fixtures
        self._worlds: dict[str, Gathering] = {}
        self._waiting: dict[tuple[str, int], tuple[Peer, int, str, int]] = {}
        self._waited: list[Wait] = []

    def hear(self, message: object, peer: Peer) -> None:
        """Take any message of a launch: some are questions, others tell that a rank asks no more."""
        if isinstance(message, RankAsks):
            self._asked(message, peer)
        elif isinstance(message, TestOver):
            self._settle(message.id, self._world(message.id).over(message.id.rank, message.how, periods=("test",)))
        elif isinstance(message, RankFailed):
            self.gone(message.id, f"failed: {one_line(message.type, message.message)}")
        elif isinstance(message, RankFinished):
            self.gone(message.id, "had ended")
        elif isinstance(message, RankExited):
            self.gone(message.id, "was gone")

    def waiting(self, world: str) -> set[int]:
        """Return the ranks of a world that wait in a call that all of them make; may be called from any thread."""
        return {rank for its_world, rank in list(self._waiting) if its_world == world}

    def waits(self) -> tuple[Wait, ...]:
        """Return for how long ranks have waited in calls that all of them make; an open end for those that still do."""
        still = [
            Wait(world=world, rank=rank, what=what, begin_ns=begin_ns, end_ns=None)
            for (world, rank), (_, _, what, begin_ns) in list(self._waiting.items())
        ]
        return (*self._waited, *still)

    def gone(self, id: RankId, how: str) -> None:  # noqa: A002 (the field's name)
        """Take note that a rank is at its end."""
        self._settle(id, self._world(id).over(id.rank, how))

    def _world(self, id: RankId) -> Gathering:  # noqa: A002
        if id.world not in self._worlds:
            self._worlds[id.world] = Gathering(id.world_size)
        return self._worlds[id.world]

    def _asked(self, asks: RankAsks, peer: Peer) -> None:
        what = asks.what
        if isinstance(what, Meeting):
            self._waiting[asks.id.world, asks.id.rank] = (peer, asks.number, what.what, clock.monotonic_ns())
            settled = self._world(asks.id).call(asks.id.rank, what)
            self._settle(asks.id, [settled] if settled is not None else [])
            return
        fixtures = self._fixtures
        assert fixtures is not None, "only a test asks for fixtures"
        known = fixtures.known(what) if isinstance(what, FixtureWanted) else None
        if known is not None:
            self._answer(peer, asks.number, known)
        else:
            self._in_test_thread(lambda: self._reply(asks, peer, fixtures))

    def _reply(self, asks: RankAsks, peer: Peer, fixtures: Fixtures) -> None:
        assert not isinstance(asks.what, Meeting)
        if not peer.gone():  # for a rank that is dead nothing is set up any more
            self._answer(peer, asks.number, fixtures.reply(asks.id, asks.what))

    def _settle(self, id: RankId, outcomes: list[Settled]) -> None:  # noqa: A002
        for outcome in outcomes:
            values = pickle.dumps(outcome.values) if outcome.values is not None else None
            for rank in outcome.ranks:
                peer, number, what, begin_ns = self._waiting.pop((id.world, rank))
                end_ns = clock.monotonic_ns()
                if end_ns - begin_ns >= _LONG_NS:
                    self._waited.append(Wait(world=id.world, rank=rank, what=what, begin_ns=begin_ns, end_ns=end_ns))
                if values is not None:
                    self._answer(peer, number, (True, values))
                else:
                    assert outcome.doings is not None
                    error = _diverged(outcome.what[rank], rank, outcome.doings)
                    self._answer(peer, number, (False, refuse(error, with_traceback=False)))

    def _answer(self, peer: Peer, number: int, reply: Reply) -> None:
        good, data = reply
        self._post(peer, pickle.dumps(Answer(number=number, good=good)), data)


def _diverged(what: str, rank: int, doings: dict[int, str]) -> RanksDivergedError:
    return RanksDivergedError(
        f"{what} on rank {rank}: the ranks did not all make this call: {told(doings)}", what=what, ranks=doings
    )
