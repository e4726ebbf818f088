"""What the controller hears of one launch: keeps what each agent and rank says, and answers them."""

from __future__ import annotations

import pickle
import selectors
import signal
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from pytest_elastic.channel import Peer
from pytest_elastic.controller.clocks import Clocks
from pytest_elastic.controller.debugging import Debugging
from pytest_elastic.controller.failure_log import FailureLog
from pytest_elastic.controller.live import LiveLines
from pytest_elastic.controller.peers import RankState
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.roster import Roster
from pytest_elastic.controller.serving import Fixtures, RankServices
from pytest_elastic.messages import (
    AgentFinished,
    AgentHello,
    EventRecorded,
    Leave,
    Message,
    RankCaught,
    RankExited,
    RankFailed,
    RankFinished,
    RankHello,
    RankId,
    RankLogged,
    RankReport,
    RankWarned,
    RoundStarted,
)
from pytest_elastic.report.records import Round, Wait

_WORDS: Final = (RankCaught, RankFailed, RankReport, RankFinished)
"""What a rank tells of its test or function."""


class Arrivals(Protocol):
    """Who decides what becomes of those that arrive."""

    def agent_arrived(self, hello: AgentHello, peer: Peer | None) -> None:
        """Let an agent start, or end the launch."""

    def rank_arrived(self, hello: RankHello, peer: Peer) -> None:
        """Let a rank start, or end it."""

    def hold(self, rank: RankState, pid: int) -> None:
        """Take hold of a rank's process."""


class Hearing:
    """The conversation with the agents and ranks of one launch. Its methods belong to the supervisor's thread.

    Args:
        plan: What is run.
        roster: Where it is kept what each said.
        clocks: They are told of failures.
        live: Lines on their way to the terminal.
        selector: The supervisor waits on it.
        arrivals: Decides what becomes of those that arrive.
        debugging: Decides who gets the terminal.
        errand: Has something done in the thread of the test.
        wake: Wakes the supervisor.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        roster: Roster,
        clocks: Clocks,
        live: LiveLines,
        selector: selectors.BaseSelector,
        arrivals: Arrivals,
        debugging: Debugging,
        *,
        errand: Callable[[Callable[[], None]], None],
        wake: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._roster = roster
        self._clocks = clocks
        self._live = live
        self._selector = selector
        self._arrivals = arrivals
        self._debugging = debugging
        self._wake = wake
        self._errand = errand
        self._last = not plan.kept
        self._posted: deque[tuple[Peer, tuple[bytes, ...]]] = deque()
        self._peers: list[Peer] = []
        self.begin(plan.nodeid, None)

    def begin(self, nodeid: str, fixtures: Fixtures | None) -> None:
        """Take note of whose ranks these are from now on: they may be kept for more than one test.

        Args:
            nodeid: The test.
            fixtures: The controller's fixtures, for ranks that run it.
        """
        log = self._plan.failure_log
        self._failures = FailureLog(log, nodeid) if log is not None else None
        self._services = RankServices(self._post, self._errand, fixtures)
        self._debugging.begin()

    @property
    def keeps_ranks(self) -> bool:
        """Ranks that are done with their test wait for another."""
        return not self._last

    def no_more_tests(self) -> None:
        """Take note that ranks end when they have told how their work went."""
        self._last = True

    def waiting(self, world: str) -> set[int]:
        """Return the ranks of a world that wait in a call that all of them make; may be called from any thread."""
        return self._services.waiting(world)

    def waits(self) -> tuple[Wait, ...]:
        """Return for how long ranks have waited in calls that all of them make."""
        return self._services.waits()

    def tell(self, peer: Peer, frame: bytes) -> None:
        """Send a pickle to a peer."""
        if not peer.gone():
            peer.send_frames(frame)
            self._flush(peer)

    def _post(self, peer: Peer, *frames: bytes) -> None:
        """Have pickles sent to a peer; may be called from any thread."""
        self._posted.append((peer, frames))
        self._wake()

    def hear_all(self) -> None:
        """Take what anybody has said by now."""
        for peer in self._peers:
            self.hear(peer)

    def gone(self, id: RankId) -> None:  # noqa: A002 (the field's name)
        """Take note that a rank's process has ended."""
        self._services.gone(id, "was gone")
        self._debugging.gone(id)
        self.let_ranks_leave(id.world)

    def close(self) -> None:
        """Close every connection."""
        for peer in self._peers:
            peer.close()

    def welcome(self, peer: Peer) -> None:
        """Listen to a peer that has proven itself."""
        self._peers.append(peer)
        self._selector.register(peer, selectors.EVENT_READ, lambda: self.hear(peer))
        self.hear(peer)

    def hear(self, peer: Peer) -> None:
        """Take what a peer has said by now."""
        if peer.gone():
            return
        for message in peer.messages():
            self._take(message, peer)
        if peer.noise:
            self._roster.notes.append(
                f"a rank or agent was not heard any more: what came was no message ({peer.noise})"
            )
            peer.noise = ""
        if peer.gone():
            self._selector.unregister(peer)
            peer.close()
            self._debugging.hung_up(peer)
        else:
            self._flush(peer)

    def deliver(self) -> None:
        """Send what has been posted."""
        while self._posted:
            peer, frames = self._posted.popleft()
            if not peer.gone():
                peer.send_frames(*frames)
                self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        """Send what a connection takes now, and be told when it takes more."""
        key = self._selector.get_key(peer)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.flush() else 0)
        if events != key.events:
            self._selector.modify(peer, events, key.data)

    def _take(self, message: Message, peer: Peer) -> None:
        if isinstance(message, _WORDS) and not self._roster.rank(message.id).counts(message.time_ns):
            return
        if isinstance(message, RankExited) and not self._exit_counts(message):
            return
        self._services.hear(message, peer)
        self._debugging.hear(message, peer)
        if isinstance(message, RankHello):
            self._arrivals.rank_arrived(message, peer)
        elif isinstance(message, RankFailed):
            self._roster.rank(message.id).failed = message
            self._rank_failed(message)
        elif isinstance(message, RankCaught):
            self._roster.rank(message.id).caught = message
            self._rank_failed(message)
        elif isinstance(message, RankReport):
            self._roster.rank(message.id).reports.append(message)
            if message.outcome == "failed":
                self._rank_failed(message)
        elif isinstance(message, RankFinished):
            rank = self._roster.rank(message.id)
            rank.finished = message
            rank.leaks += message.leaks
            self._roster.leftovers += [f"rank {message.id.rank} left {what} behind" for what in message.leftovers]
            self.let_ranks_leave(message.id.world)
        elif isinstance(message, RankWarned):
            self._roster.warnings.append(message)
        elif isinstance(message, RankLogged):
            self._live.add(message.id.rank, message.text)
        elif isinstance(message, RankExited):
            rank = self._roster.rank(message.id)
            rank.exited = message
            if rank.peer is not None:
                self.hear(rank.peer)  # what it said before it ended counts first
            if message.exitcode != 0 or (rank.finished is None and self._plan.work != "command"):
                self._rank_failed(message)
        elif isinstance(message, RoundStarted):
            if message.ranks:
                self._roster.agents[message.node].rounds.append(message.ranks[0])
                sought_ns, met_ns, started_ns = message.times_ns
                self._roster.rounds.append(
                    Round(
                        node=message.node,
                        world=message.ranks[0].world,
                        sought_ns=sought_ns,
                        met_ns=met_ns,
                        started_ns=started_ns,
                    )
                )
            for id, pid in zip(message.ranks, message.pids, strict=True):  # noqa: A001
                self._arrivals.hold(self._roster.rank(id), pid)
        elif isinstance(message, EventRecorded):
            self._roster.events.append(message.event)
        elif isinstance(message, AgentHello):
            self._arrivals.agent_arrived(message, peer)
        elif isinstance(message, AgentFinished):
            self._roster.agents[message.node].finished = message

    def _exit_counts(self, message: RankExited) -> bool:
        """Tell whether a rank ended by itself, or by a kill: what else it ends by after that is the others' deaths."""
        return message.exitcode == -signal.SIGKILL or self._roster.rank(message.id).closed_ns is None

    def _rank_failed(self, message: RankFailed | RankCaught | RankReport | RankExited) -> None:
        """Note a failure where it survives this session, and have the rest of its world end."""
        if self._failures is not None:
            unwritten = self._failures.note(message)
            self._roster.notes += [unwritten] if unwritten else []
        world = message.id.world
        self._clocks.rank_failed(world)
        if not self._plan.config["max_restarts"]:
            self.let_ranks_leave(world, anyway=True)

    def let_ranks_leave(self, world: str, *, anyway: bool = False) -> None:
        """Let the ranks of a world that are done end, when every other has told how it ended, or one has failed."""
        ranks = self._roster.of_world(world)
        told = [rank for rank in ranks if rank.finished is not None or rank.over()]
        if not self._last or not (anyway or len(told) == ranks[0].id.world_size):
            return
        together = not anyway and all(rank.finished is not None and not rank.bad() for rank in ranks)
        for rank in ranks:
            if rank.finished is not None and rank.peer is not None and not rank.may_leave:
                rank.may_leave = True
                self.tell(rank.peer, pickle.dumps(Leave(together=together)))
