"""One launch, as the thread of a test sees it.

A supervisor in a thread of its own runs it, so that the test's thread may do what it likes (wait, be interrupted, be
timed out by another plugin) and what a rank says is heard all the same.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import pytest

from pytest_elastic import clock
from pytest_elastic.controller.live import LiveLines
from pytest_elastic.controller.peers import RankState
from pytest_elastic.controller.plan import LaunchPlan, TestPlan
from pytest_elastic.controller.progress import Progress
from pytest_elastic.controller.purpose import Purpose
from pytest_elastic.controller.roster import Roster
from pytest_elastic.controller.server import PreloadedServer
from pytest_elastic.controller.supervisor import Supervisor
from pytest_elastic.controller.terminal import Terminal
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import TearDown
from pytest_elastic.report.records import LaunchRecord
from pytest_elastic.scarcity import Scarcity

T = TypeVar("T")
_INTERVAL: Final = 0.5
"""Seconds between two looks at what nobody announces."""


class Launch:
    """A running launch.

    Args:
        plan: What to run.
        server: The server that forks agents and ranks.
        write: Writes lines to the terminal while the launch runs.
        progress: Shows how it goes on.
        stream: What ranks write goes to the terminal as well as to their logs.
        terminal: The person's terminal, for debuggers.
        abandoned: Tells whether nobody is there any more who wants to know how it ends.

    Attributes:
        plan: What is run.
        rests: Its ranks have run a test, and wait for another.
        fit: They may run one.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        server: PreloadedServer,
        *,
        write: Callable[[str], None],
        progress: Progress,
        stream: bool,
        terminal: Terminal,
        abandoned: Callable[[], bool],
    ) -> None:
        self._progress = progress
        self._abandoned = abandoned
        self.plan: Final = plan
        self.rests = False
        self.fit = True
        self._stands = False
        self._last = not plan.kept
        self._timeout = plan.timeout

        def write_lines(text: str) -> None:
            progress.wipe()
            write(text)

        self._live = LiveLines(write_lines)
        self._supervisor = Supervisor(plan, server, self._live, terminal, stream=stream)
        name = f"elastic-{self._supervisor.name}"
        self._thread = threading.Thread(target=self._supervisor.run, name=name, daemon=True)

    def start(self, over: Callable[[], object], *, test: TestPlan | None = None, held_open: bool = False) -> None:
        """Start the agents. Returns at once.

        Args:
            over: Called once nothing is left of the launch.
            test: What its ranks run first, if they run tests.
            held_open: Lost nodes do not end it before :meth:`let_end`: others may still be added.
        """
        self._supervisor.over = over
        self._supervisor.held_open = held_open
        if test is not None:
            self._last, self._timeout = test.order.kept == 0, test.timeout
            self._supervisor.begin_test(test)
        else:
            self._supervisor.start_clocks()
        self._thread.start()

    def wait(self) -> LaunchRecord:
        """Wait for the end, which the deadline bounds.

        Raises:
            BaseException: Whatever interrupts the wait (Ctrl-C, a time-out of another plugin); the launch is ended.
        """
        __tracebackhide__ = True
        self.wait_until(lambda: self.settled)
        if not self.settled:
            self._thread.join()
        if self._supervisor.error is not None:
            with Scarcity(f"{self.work_name or 'the launch'} could not go on"):
                raise self._supervisor.error
        assert self._supervisor.record is not None
        if self._supervisor.debugging.quits and self.plan.work != "test":
            pytest.exit("Quitting debugger")
        return self._supervisor.record

    def wait_until(self, reached: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until ``reached()`` or the end of the launch; return what ``reached()`` says then.

        What the supervisor wants done in the thread of the test is done meanwhile.

        Args:
            reached: Tells whether to stop waiting; called whenever something may have happened.
            timeout: Seconds to wait at most, or ``None``.
        """
        __tracebackhide__ = True
        deadline = math.inf if timeout is None else clock.monotonic() - self._supervisor.stood_for + timeout
        try:
            # A debugger of this process may have been left otherwise than by "continue".
            self.stand_still(False)
            while (errand := self._next_errand(reached, deadline)) is not None:
                self._progress.wipe()
                errand()
                self.stand_still(False)
        except BaseException as error:
            # A person who presses Ctrl-C does not wait for stacks; a time-out of another plugin is to have them.
            self.close(stacks=isinstance(error, (Exception, pytest.fail.Exception)))
            raise
        finally:
            self._progress.wipe()
        self._live.show()
        return reached()

    def _next_errand(self, reached: Callable[[], bool], deadline: float) -> Callable[[], None] | None:
        __tracebackhide__ = True
        supervisor = self._supervisor

        def is_enough() -> bool:
            return bool(self._live) or reached()

        with supervisor.changed:
            supervisor.awaited.append(is_enough)
            try:
                while not supervisor.errands and not supervisor.done.is_set() and not reached():
                    left = deadline + supervisor.stood_for - clock.monotonic()
                    if left <= 0:
                        break
                    self._progress.tick(self)
                    # With a time-out, because a wait without one does not let Ctrl-C through everywhere.
                    supervisor.changed.wait(min(_INTERVAL, left))
                    if self._abandoned():
                        raise KeyboardInterrupt("the main process of pytest-xdist is gone")
                    self._live.show()
            finally:
                supervisor.awaited.remove(is_enough)
            return supervisor.errands.popleft() if supervisor.errands else None

    def stand_still(self, still: bool) -> None:
        """Have the clocks stand still while a person is in a debugger of this process, or go on."""
        if still is not self._stands and threading.current_thread() is not self._thread:
            self._stands = still
            with contextlib.suppress(ElasticError):  # it is over
                self._supervisor.actions.do(lambda: self._supervisor.debugging.stand_still(still))

    def close(self, *, stacks: bool = False) -> None:
        """End whatever is left of the launch, and wait until nothing is.

        Args:
            stacks: Have ranks write where they are before they are killed.
        """
        self._supervisor.cancel(stacks=stacks)
        self._thread.join()
        self._live.show()

    # --- ranks that run tests ---

    def begin_test(self, test: TestPlan) -> None:
        """Have ranks that rest run another test.

        Raises:
            ElasticError: The launch is over, or one of its ranks is gone.
        """
        self._supervisor.actions.do(lambda: self._supervisor.begin_another_test(test))
        self._last, self._timeout, self.rests = test.order.kept == 0, test.timeout, False

    def limit_call(self, timeout: float, by: str) -> None:
        """Have the deadline come in some seconds, unless it comes before, until all ranks have ended their call.

        Args:
            timeout: The seconds.
            by: Who wants that, where it is another plugin.
        """
        with contextlib.suppress(ElasticError):  # it is over already
            self._supervisor.actions.do(lambda: self._supervisor.limit_call(timeout, by))

    def wait_for_test(self) -> LaunchRecord:
        """Wait until the ranks have run their test: those that are kept then rest, the others have ended.

        One that has failed ends the launch.

        Raises:
            BaseException: As for :meth:`wait`.
        """
        __tracebackhide__ = True
        if self._last:
            return self.wait()
        self.wait_until(lambda: self.test_is_over() or in_trouble(self.roster.last_world()))
        with contextlib.suppress(ElasticError):  # it is over just now
            if self.test_is_over():
                self.fit = _fit(self.roster.last_world())
                record = self._supervisor.actions.do(self._supervisor.rest)
                self.rests = True
                return record
        return self.wait()

    def tear_down_to(self, kept: int) -> LaunchRecord | None:
        """Have ranks that rest tear down all but some collectors around their last test.

        Args:
            kept: How many.

        Returns:
            The end of the launch, if that failed.
        """
        with contextlib.suppress(ElasticError):
            order = TearDown(kept=kept)
            self._supervisor.actions.do(lambda: self._supervisor.resume(order, self._timeout))
            self.rests = False
            self.wait_until(lambda: self.test_is_over() or in_trouble(self.roster.last_world()))
            if self.test_is_over() and not in_trouble(self.roster.last_world()):
                self._supervisor.actions.do(self._supervisor.rest)
                self.rests = True
                return None
        return self.wait()

    def await_end(self, timeout: float) -> None:
        """Wait for the end of a launch of which a rank is gone, and end it if that takes too long."""
        self.wait_until(lambda: False, timeout)
        self.close()

    def test_is_over(self) -> bool:
        """Tell whether every rank has run its test, and is kept."""
        ranks = self.roster.last_world()
        return (
            not self._last
            and bool(ranks)
            and len(ranks) == ranks[0].id.world_size
            and all(rank.finished is not None and not rank.over() for rank in ranks)
        )

    def end(self, timeout: float | None = None) -> LaunchRecord:
        """Have ranks that rest tear down what they have kept, and end.

        Args:
            timeout: Seconds until they are killed; ``None`` for those that their last test had.

        Raises:
            BaseException: As for :meth:`wait`.
        """
        limits = [limit for limit in (timeout, self._timeout) if limit is not None]
        with contextlib.suppress(ElasticError):  # it is over already
            self._supervisor.actions.do(lambda: self._supervisor.no_more_tests(min(limits, default=None)))
            self._last, self.rests = True, False
        return self.wait()

    # --- a launch that somebody holds a handle on ---

    def do(self, action: Callable[[Purpose], T]) -> T:
        """Have something done to agents or ranks, in the thread of the supervisor.

        Raises:
            ElasticError: The launch is over.
        """
        __tracebackhide__ = True
        return self._supervisor.actions.do(lambda: action(self._supervisor.purpose))

    def let_end(self, timeout: float | None) -> None:
        """Let lost nodes end the launch from now on, and have its deadline come in some seconds."""
        with contextlib.suppress(ElasticError):  # it is over already
            self._supervisor.actions.do(lambda: self._supervisor.let_end(timeout))

    def watch_output(self) -> None:
        """Have :meth:`wait_until` look whenever a rank has written."""
        with contextlib.suppress(ElasticError):  # it is over already
            self._supervisor.actions.do(self._supervisor.purpose.watch_output)

    def formed_world(self) -> list[RankState]:
        """Return the ranks of the last world if all of them have started, else none."""
        return self.roster.formed_world(silent=self.plan.work == "command")

    def sound_world(self) -> list[RankState]:
        """Return the ranks of the last world if all of them have started and none has failed, else none."""
        ranks = self.formed_world()
        sound = all(rank.finished is not None or not (rank.over() or rank.doomed() or rank.bad()) for rank in ranks)
        return ranks if sound else []

    def sync(self) -> None:
        """Wait until what ranks on other machines have written is here."""
        if self.plan.site.has_others:
            with contextlib.suppress(ElasticError):  # it is over: all is here
                self._supervisor.actions.do(self._supervisor.sync)

    def snapshot(self) -> LaunchRecord:
        """Return what is known by now."""
        return self.record or self._supervisor.make_record()

    @property
    def roster(self) -> Roster:
        """Agents and ranks, and what each has told so far."""
        return self._supervisor.roster

    @property
    def seconds(self) -> float:
        """For how long it has run, or its ranks their test."""
        supervisor = self._supervisor
        return (
            (clock.monotonic_ns() - supervisor.started_ns) / 1e9 - supervisor.stood_for
            if supervisor.started_ns
            else 0.0
        )

    @property
    def started_ns(self) -> int:
        """When it began, or its ranks their test."""
        return self._supervisor.started_ns

    @property
    def timeout(self) -> float | None:
        """Deadline of what it runs, in seconds."""
        return self._supervisor.timeout

    @property
    def work_name(self) -> str:
        """Name of what it runs."""
        return self._supervisor.work_name

    def waiting_ranks(self) -> set[int]:
        """Return the ranks of the last world that wait in a call that all of them make."""
        return self._supervisor.waiting_ranks()

    @property
    def quits(self) -> bool:
        """The person has left a debugger by ``quit``."""
        return self._supervisor.debugging.quits

    @property
    def debugged_failure(self) -> bool:
        """A rank that had failed got the terminal."""
        return self._supervisor.debugging.had_failure

    @property
    def settled(self) -> bool:
        """Everything is known of a test; agents may still be about to end."""
        return self._supervisor.settled.is_set()

    @property
    def over(self) -> bool:
        """Nothing is left of the launch."""
        return self._supervisor.done.is_set()

    @property
    def record(self) -> LaunchRecord | None:
        """What is known of the launch once it is over."""
        return self._supervisor.record

    @property
    def world_size(self) -> int:
        """Number of ranks: of the last world, or while there is none of all nodes."""
        ranks = self.roster.last_world()
        return ranks[0].id.world_size if ranks else self.plan.nproc * self.plan.agents

    @property
    def admitted(self) -> bool:
        """An agent has said that it, and the server behind it, are fit to start."""
        return self.roster.admitted()

    @property
    def broken(self) -> str | None:
        """Traceback of a preload that failed: no rank was started."""
        return self._supervisor.broken

    @property
    def unsafe(self) -> str | None:
        """Why ranks cannot be forked from this server: no rank was started."""
        return self._supervisor.unsafe


def in_trouble(ranks: Sequence[RankState]) -> bool:
    """Tell whether one of the ranks has failed, or is gone before it has run its test."""
    return any(rank.bad() or (rank.exited is not None and rank.finished is None) for rank in ranks)


def anybody_skipped(ranks: Sequence[RankState]) -> bool:
    """Tell whether one of the ranks has skipped its test."""
    return any(_skipped(rank) for rank in ranks)


def _skipped(rank: RankState) -> bool:
    return any(report.outcome == "skipped" and not report.subtest for report in rank.reports)


def _fit(ranks: Sequence[RankState]) -> bool:
    """Tell whether ranks that have run their test may run another."""
    alike = len({_skipped(rank) for rank in ranks}) == 1
    return alike and not in_trouble(ranks) and not any(rank.finished and rank.finished.spoilt for rank in ranks)
