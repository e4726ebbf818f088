"""One launch, as the thread of a test sees it.

A supervisor in a thread of its own runs it, so that the test's thread may do what it likes (wait, be interrupted, be
timed out by another plugin) and what a rank says is heard all the same.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import pytest

from pytest_elastic import clock
from pytest_elastic.controller.live import LiveLines
from pytest_elastic.controller.peers import RankState
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.purpose import Purpose
from pytest_elastic.controller.roster import Roster
from pytest_elastic.controller.server import PreloadedServer
from pytest_elastic.controller.serving import Fixtures
from pytest_elastic.controller.supervisor import Supervisor
from pytest_elastic.errors import ElasticError
from pytest_elastic.report.records import LaunchRecord

T = TypeVar("T")


class Launch:
    """A running launch.

    Args:
        plan: What to run.
        server: The server that forks agents and ranks.
        write: Writes lines to the terminal while the launch runs.
        stream: What ranks write goes to the terminal as well as to their logs.
        fixtures: The controller's fixtures, for ranks that run a test.

    Attributes:
        plan: What is run.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        server: PreloadedServer,
        fixtures: Fixtures | None = None,
        *,
        write: Callable[[str], None],
        stream: bool,
    ) -> None:
        self.plan: Final = plan
        self._live = LiveLines(write)
        self._supervisor = Supervisor(plan, server, self._live, stream=stream, fixtures=fixtures)
        name = f"elastic-{self._supervisor.name}"
        self._thread = threading.Thread(target=self._supervisor.run, name=name, daemon=True)

    def start(self, over: Callable[[], object], *, held_open: bool = False) -> None:
        """Start the agents. Returns at once.

        Args:
            over: Called once nothing is left of the launch.
            held_open: Lost nodes do not end it before :meth:`let_end`: others may still be added.
        """
        self._supervisor.over = over
        self._supervisor.held_open = held_open
        self._supervisor.start_clocks()
        self._thread.start()

    def wait(self) -> LaunchRecord:
        """Wait for the end, which the deadline bounds.

        Raises:
            BaseException: Whatever interrupts the wait (Ctrl-C, a time-out of another plugin); the launch is ended.
        """
        self.wait_until(lambda: False)
        self._thread.join()
        if self._supervisor.error is not None:
            raise self._supervisor.error
        assert self._supervisor.record is not None
        return self._supervisor.record

    def wait_until(self, reached: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until ``reached()`` or the end of the launch; return what ``reached()`` says then.

        What the supervisor wants done in the thread of the test is done meanwhile.

        Args:
            reached: Tells whether to stop waiting; called whenever something may have happened.
            timeout: Seconds to wait at most, or ``None``.
        """
        __tracebackhide__ = True
        deadline = math.inf if timeout is None else clock.monotonic() + timeout
        try:
            while (errand := self._next_errand(reached, deadline)) is not None:
                errand()
        except BaseException as error:
            # A person who presses Ctrl-C does not wait for stacks; a time-out of another plugin is to have them.
            self.close(stacks=isinstance(error, (Exception, pytest.fail.Exception)))
            raise
        self._live.show()
        return reached()

    def _next_errand(self, reached: Callable[[], bool], deadline: float) -> Callable[[], None] | None:
        __tracebackhide__ = True
        with self._supervisor.changed:
            while not self._supervisor.errands and not self._supervisor.done.is_set() and not reached():
                left = deadline - clock.monotonic()
                if left <= 0:
                    break
                # With a time-out, because a wait without one does not let Ctrl-C through everywhere.
                self._supervisor.changed.wait(min(1.0, left))
                self._live.show()
            return self._supervisor.errands.popleft() if self._supervisor.errands else None

    def close(self, *, stacks: bool = False) -> None:
        """End whatever is left of the launch, and wait until nothing is.

        Args:
            stacks: Have ranks write where they are before they are killed.
        """
        self._supervisor.cancel(stacks=stacks)
        self._thread.join()
        self._live.show()

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

    def snapshot(self) -> LaunchRecord:
        """Return what is known by now."""
        return self.record or self._supervisor.make_record()

    @property
    def roster(self) -> Roster:
        """Agents and ranks, and what each has told so far."""
        return self._supervisor.roster

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
