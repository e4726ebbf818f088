"""Which rank of a launch gets the person's terminal, and what becomes of the others that reach a breakpoint."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pytest_elastic import clock
from pytest_elastic.channel import Peer
from pytest_elastic.controller.clocks import Clocks
from pytest_elastic.controller.roster import Roster
from pytest_elastic.controller.terminal import Loan, Terminal
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import HOLD, RankId, TerminalAnswer, TerminalDone, TerminalUsed, TerminalWanted
from pytest_elastic.report.culprit import Blame
from pytest_elastic.report.judgement import find_failures
from pytest_elastic.report.stacks import fold

_FOR_THE_CHOSEN: Final = 2.0
"""Seconds for which a rank waits at a breakpoint for the one that is to be debugged there."""
_FOR_OTHERS: Final = 0.5
"""Seconds for which a rank that has failed waits for others that fail too: who is to blame is known then."""
_LONG_STEP: Final = 1.0
"""Seconds after which a step is taken to wait for the ranks that wait for its end, in a collective."""


@dataclass(slots=True, eq=False)
class _Asker:
    """A rank that wants the terminal."""

    peer: Peer
    wanted: TerminalWanted
    visit: int
    since: float

    @property
    def at_breakpoint(self) -> bool:
        return self.wanted.why != "failure"


class Debugging:
    """The debuggers of one launch. Its methods belong to the supervisor's thread.

    Args:
        roster: The ranks.
        clocks: They stand still while a rank has the terminal, or is about to get it.
        terminal: The terminal.
        directory: Directory of the launch's output.
        scratch: Private directory of the launch.
        errand: Has something done in the thread of the test.
        do: Has something done in the supervisor's thread; called from the thread of the test.

    Attributes:
        quits: The person has left a debugger by ``quit``.
        had_failure: A rank that had failed got the terminal.
    """

    def __init__(
        self,
        roster: Roster,
        clocks: Clocks,
        terminal: Terminal,
        *,
        directory: Path,
        scratch: Path,
        errand: Callable[[Callable[[], None]], None],
        do: Callable[[Callable[[], None]], None],
    ) -> None:
        self._roster = roster
        self._clocks = clocks
        self._terminal = terminal
        self._directory = directory
        self._hold = scratch / HOLD
        self._errand = errand
        self._do = do
        self.quits = False
        self._elsewhere = False
        self._holds = False
        self.begin()

    def begin(self) -> None:
        """Take note that the ranks begin another test."""
        self._asking: list[_Asker] = []
        self._holder: _Asker | None = None
        self._loan: Loan | None = None
        self._busy_since: float | None = None
        self._visits: Counter[tuple[str, int, str]] = Counter()
        self._chosen = self._terminal.wanted_rank
        self._explicit = self._chosen is not None
        self._checked = False
        self._told: set[str] = set()
        self._sent_on: dict[str, list[_Asker]] = {}
        self._debugged: RankId | None = None
        self._left_by: RankId | None = None

    @property
    def had_failure(self) -> bool:
        """A rank that had failed got the terminal."""
        return self._debugged is not None

    # --- what is heard ---

    def hear(self, message: object, peer: Peer) -> None:
        """Take any message of a launch: some are of debuggers."""
        if isinstance(message, TerminalWanted):
            self._wanted(message, peer)
        elif isinstance(message, TerminalUsed) and self._loan is not None:
            self._loan.prompting = message.prompting
            self._loan.interrupted = False
            self._busy_since = None if message.prompting else clock.monotonic()
        elif isinstance(message, TerminalDone):
            self._done(peer, quits=message.quits)

    def hung_up(self, peer: Peer) -> None:
        """Take note that a connection has ended."""
        self._forget(lambda asker: asker.peer is peer)
        self._done(peer, quits=False)

    def gone(self, id: RankId) -> None:  # noqa: A002 (the field's name)
        """Take note that a rank has ended, of which a child may still have the connection."""
        self._forget(lambda asker: asker.wanted.id == id)
        if self._holder is not None and self._holder.wanted.id == id:
            self._done(self._holder.peer, quits=False)

    def _forget(self, gone: Callable[[_Asker], bool]) -> None:
        self._asking = [asker for asker in self._asking if not gone(asker)]
        self._set_clocks()

    def _wanted(self, wanted: TerminalWanted, peer: Peer) -> None:
        self._check_chosen(wanted.id)
        place = (wanted.id.world, wanted.id.rank, wanted.place)
        self._visits[place] += 1
        if wanted.has_it or self._is_too_late(wanted.id):
            return
        refusal = self._terminal.refusal or self._why_out_of_reach(wanted.id)
        if refusal:
            peer.send(TerminalAnswer(granted=False, refusal=refusal))
            return
        self._asking.append(_Asker(peer=peer, wanted=wanted, visit=self._visits[place], since=clock.monotonic()))
        self._set_clocks()

    def _is_too_late(self, id: RankId) -> bool:  # noqa: A002
        """Tell whether the person has left another rank by ``quit`` before: this one waits for its end, unanswered."""
        left = self._left_by
        return left is not None and left.world == id.world and left.rank != id.rank

    def _why_out_of_reach(self, id: RankId) -> str:  # noqa: A002
        agent = next((agent for agent in self._roster.agents if agent.order.node == id.node), None)
        if agent is None or not agent.elsewhere:
            return ""
        where = agent.host or "another pytest process"
        return f"it runs on {where}, to which this terminal does not reach; run the test on one machine to debug it"

    def _check_chosen(self, id: RankId) -> None:  # noqa: A002
        """Say so, once, if the rank that the person wants does not exist."""
        if self._checked:
            return
        self._checked = True
        if self._chosen is not None and self._chosen >= id.world_size:
            self._tell(
                f"--elastic-pdb-rank={self._chosen}: this launch has {fold(list(range(id.world_size)))} only; the "
                "first to ask is debugged"
            )
            self._chosen, self._explicit = None, False

    def stand_still(self, still: bool) -> None:
        """Take note of whether a person is in a debugger of the pytest process; agents go on meanwhile."""
        self._elsewhere = still
        self._set_clocks()

    # --- who gets it ---

    def patience(self) -> float | None:
        """Return the seconds until somebody has waited for long enough, or ``None``."""
        times = [
            asker.since + (_FOR_THE_CHOSEN if asker.at_breakpoint else _FOR_OTHERS)
            for asker in self._asking
            if self._holder is None
        ]
        if self._busy_since is not None and self._behind_the_holder():
            times.append(self._busy_since + _LONG_STEP)
        return max(0.0, min(times) - clock.monotonic()) if times else None

    def look(self) -> None:
        """Decide what there is to decide."""
        if self._holder is not None:
            self._look_at_long_step()
        elif self._asking:
            self._look_at_askers()
        if self._sent_on:
            self._tell_of_sent_on()

    def _look_at_askers(self) -> None:
        askers = [each for each in self._asking if each.at_breakpoint]
        # The others are sent on once the chosen one has been at their place.
        for asker in sorted(askers, key=lambda each: each.wanted.id.rank != self._chosen):
            if self._decide(asker):
                return
        self._decide_on_failures()

    def _look_at_long_step(self) -> None:
        if self._busy_since is not None and clock.monotonic() >= self._busy_since + _LONG_STEP:
            for asker in self._behind_the_holder():
                self._send_on(asker)

    def _behind_the_holder(self) -> list[_Asker]:
        """Return those that wait at a breakpoint where the rank that has the terminal has been."""
        if self._holder is None:
            return []
        return [each for each in self._asking if each.at_breakpoint and self._was_there(self._holder.wanted.id, each)]

    def _was_there(self, id: RankId, asker: _Asker) -> bool:  # noqa: A002
        return self._visits[id.world, id.rank, asker.wanted.place] >= asker.visit

    def _decide(self, asker: _Asker) -> bool:
        """Decide about a rank at a breakpoint; return whether it gets the terminal."""
        id = asker.wanted.id  # noqa: A001
        if self._chosen is None or self._chosen == id.rank:
            self._chosen = id.rank
            self._lend(asker)
            return True
        chosen = next((rank for rank in self._roster.of_world(id.world) if rank.id.rank == self._chosen), None)
        if chosen is not None and self._was_there(chosen.id, asker):
            self._send_on(asker)
            return False
        may_come = chosen is None or not (chosen.over() or chosen.finished is not None or chosen.bad())
        if may_come and clock.monotonic() < asker.since + _FOR_THE_CHOSEN:
            return False
        if self._explicit:
            self._send_on(asker)
            return False
        self._chosen = id.rank
        self._lend(asker)
        return True

    def _send_on(self, asker: _Asker) -> None:
        """Have a rank go on without a debugger."""
        self._forget(lambda other: other is asker)
        asker.peer.send(TerminalAnswer(granted=False))
        if asker.at_breakpoint and asker.wanted.place not in self._told:
            trace = asker.wanted.why == "trace"
            what = "began the test" if trace else f"reached the breakpoint at {asker.wanted.place}"
            self._sent_on.setdefault(what, []).append(asker)

    def _tell_of_sent_on(self) -> None:
        """Say, once for each place, which ranks are not debugged there."""
        for what, askers in self._sent_on.items():
            ranks = sorted(asker.wanted.id.rank for asker in askers)
            self._tell(f"{fold(ranks)} {what} too; --elastic-pdb-rank={ranks[0]} debugs rank {ranks[0]}")
            self._told.add(askers[0].wanted.place)
        self._sent_on.clear()

    def _decide_on_failures(self) -> None:
        askers = [asker for asker in self._asking if not asker.at_breakpoint]
        if not askers:
            return
        first = askers[0]
        if self._debugged is not None and self._debugged.world == first.wanted.id.world:
            # One of them is debugged; of that one, its teardown too.
            for asker in askers:
                if asker.wanted.id == self._debugged:
                    self._lend(asker)
                    return
            for asker in askers:
                self._send_on(asker)
            return
        ranks = self._roster.of_world(first.wanted.id.world)
        asked = {asker.wanted.id.rank: asker for asker in askers}
        settled = all(rank.id.rank in asked or rank.over() or rank.finished is not None for rank in ranks)
        if not settled and clock.monotonic() < first.since + _FOR_OTHERS:
            return
        failures = find_failures([rank.record(self._directory) for rank in ranks if rank.bad() or rank.over()])
        if failures and failures[0].blame is Blame.DIED:
            for asker in askers:  # they failed because of a rank that nobody can look into any more
                self._send_on(asker)
            return
        order = [failure.rank.id.rank for failure in failures if failure.rank.id.rank in asked]
        if self._explicit and self._chosen in asked:
            order.insert(0, self._chosen)
        self._lend(asked[order[0]] if order else first)

    # --- the terminal ---

    def _lend(self, asker: _Asker) -> None:
        self._asking.remove(asker)
        id = asker.wanted.id  # noqa: A001
        if not asker.at_breakpoint:
            self._debugged = id
        self._holder = asker
        self._set_clocks()
        loan = self._loan = Loan(rank=self._roster.rank(id))
        self._busy_since = None

        def pass_on(fds: list[int]) -> None:
            asker.peer.send(TerminalAnswer(granted=True))
            asker.peer.pass_descriptors(fds)

        def hand_over(fds: list[int]) -> None:
            with contextlib.suppress(ElasticError):  # the launch is over, and so is the loan
                self._do(partial(pass_on, fds))

        def lend() -> None:
            __tracebackhide__ = True
            if not loan.over.is_set():
                self._terminal.lend(loan, hand_over)

        self._errand(lend)

    def _done(self, peer: Peer, *, quits: bool) -> None:
        if self._holder is None or self._holder.peer is not peer:
            return
        assert self._loan is not None
        self._loan.over.set()
        left = self._holder.wanted.id
        self._holder = self._loan = self._busy_since = None
        self.quits = self.quits or quits
        if quits:
            self._left_by = left
            self._asking.clear()  # the session ends: they wait until they are told to end as well
        self._set_clocks()

    def _set_clocks(self) -> None:
        """Have the clocks stand still while a rank has the terminal, or has failed and waits for it."""
        holds = self._holder is not None or not all(asker.at_breakpoint for asker in self._asking)
        if holds or self._elsewhere:
            self._clocks.pause()
        else:
            self._clocks.resume()
        if holds is self._holds:
            return
        self._holds = holds
        if holds:
            self._hold.touch()
        else:
            self._hold.unlink(missing_ok=True)

    def _tell(self, line: str) -> None:
        self._errand(partial(self._terminal.write, f"{line}\n"))

    def close(self) -> None:
        """Take note that the launch is over."""
        if self._loan is not None:
            self._loan.over.set()
        self._asking.clear()
