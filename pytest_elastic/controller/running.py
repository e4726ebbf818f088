"""A launch that runs: what ``elastic_launch.start`` gives to a test."""

from __future__ import annotations

import re
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_elastic import clock, kernel
from pytest_elastic.controller.awaiting import await_in, check_timeout, refuse_no_bool
from pytest_elastic.controller.launch import Launch
from pytest_elastic.controller.output_watch import LineSearch
from pytest_elastic.controller.peers import AgentState, RankState
from pytest_elastic.errors import ElasticError
from pytest_elastic.faults import is_signal
from pytest_elastic.one_line import one_line
from pytest_elastic.options import MOST
from pytest_elastic.report.describe import signal_name
from pytest_elastic.report.verdict import Verdict, judge
from pytest_elastic.spec import ArgumentError, takes_late_nodes
from pytest_elastic.warning import ElasticWarning

if TYPE_CHECKING:
    from torch.distributed.elastic.events import Event

    from pytest_elastic.report.records import LaunchRecord
    from pytest_elastic.result import LaunchResult

T = TypeVar("T")


class Owner(Protocol):
    """The fixture that started a launch."""

    def finish(self, launch: Launch, *, check: bool) -> LaunchResult:
        """Wait for the end of a launch, and return its result or raise its error."""

    def keep(self, record: LaunchRecord) -> Verdict:
        """Judge a launch, and keep its result for the report of the test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningRank:
    """One rank of the world that formed last, as it is now.

    Attributes:
        rank: Global rank.
        pid: Process id.
        agent: Index of its agent, in order of start, as in ``run.agents``.
        node_rank: Rank of its node, as the rendezvous gave it.
        state: ``"STARTING"``, ``"RUNNING"``, ``"STOPPED"`` (by SIGSTOP), ``"SUCCEEDED"``, or ``"FAILED"`` (also if it
            died or was killed).
    """

    rank: int
    pid: int | None
    agent: int
    node_rank: int
    state: str


class RunningAgent:
    """One agent of a running launch."""

    def __init__(self, launch: Launch, agent: AgentState) -> None:
        self._launch = launch
        self._agent = agent

    @property
    def pid(self) -> int | None:
        """Process id, or ``None`` before the agent has come to life; pytest's own for an inline agent."""
        hello = self._agent.hello
        return self._agent.handle.pid if self._agent.handle is not None else None if hello is None else hello.pid

    @property
    def node_rank(self) -> int | None:
        """Rank of the node as the rendezvous gave it last, or ``None`` before the first round."""
        return self._agent.rounds[-1].group_rank if self._agent.rounds else None

    @property
    def worlds(self) -> list[int]:
        """Number of ranks of each round that it has started workers for, in order."""
        return [first.world_size for first in self._agent.rounds]

    @property
    def state(self) -> str:
        """``"STARTING"``, ``"RUNNING"``, ``"SUCCEEDED"``, ``"FAILED"``, or ``"KILLED"``: it died without a word."""
        agent = self._agent
        if agent.finished is not None:
            return agent.finished.state
        if agent.ended or agent.lost_ns is not None:
            return "KILLED"
        return "STARTING" if agent.hello is None else "RUNNING"

    @property
    def exitcode(self) -> int | None:
        """Exit code of the agent's process, ``-n`` for signal ``n``; ``None`` while it runs."""
        return self._agent.exitcode

    def kill(self) -> None:
        """Lose the node: its agent and its ranks end with SIGKILL."""
        self._signal(signal.SIGKILL, "kill")

    def terminate(self) -> None:
        """Send SIGTERM to the agent, which stops its ranks and leaves (torch's ``SignalException``).

        torch's agent heeds signals from the start of its first ranks on; before that it just dies of them.
        """
        self._signal(signal.SIGTERM, "terminate")

    def interrupt(self) -> None:
        """Send SIGINT to the agent, which stops its ranks and leaves (torch's ``SignalException``).

        torch's agent heeds signals from the start of its first ranks on; before that it just dies of them.
        """
        self._signal(signal.SIGINT, "interrupt")

    def join(self, timeout: float | None = None) -> None:
        """Wait until the agent has ended.

        Args:
            timeout: Seconds to wait, or ``None`` to wait until the end of the launch.

        Raises:
            ElasticTimeoutError: It has not ended by then.
        """
        __tracebackhide__ = True
        check_timeout("agent.join", timeout)
        what = f"agent {self._agent.order.node} to end"
        await_in(self._launch, what, lambda: True if self._agent.ended else None, timeout)

    def _signal(self, signum: int, how: str) -> None:
        __tracebackhide__ = True
        node = self._agent.order.node
        if self._launch.plan.inline:
            raise ArgumentError(f'agents[{node}].{how}(): agent="inline" runs inside pytest; use agent="process"')
        # One that has just been started has no process so far.
        await_in(self._launch, f"agent {node} to start", lambda: self._agent.handle or self._agent.ended or None, None)
        if not self._launch.do(lambda do: do.signal_agent(node, signum, f"run.agents[{node}].{how}()")):
            raise ElasticError(f"agents[{node}].{how}(): the agent has ended already ({self.state})")

    def __repr__(self) -> str:
        return f"<agent {self._agent.order.node}, {self.state}, pid {self.pid}>"


class RunningLaunch:
    """A launch that runs. Leaving its ``with`` block ends whatever is left of it.

    Its methods wait for what they need; nothing is polled.
    """

    def __init__(self, owner: Owner, launch: Launch) -> None:
        self._owner = owner
        self._launch = launch
        self._closed = False
        self._told = False

    def __enter__(self) -> RunningLaunch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None and not self._told and self._launch.record is not None:
            self._warn_of(self._launch.record)

    def _warn_of(self, record: LaunchRecord) -> None:
        """Warn of a launch that failed by itself where nobody has asked how it ended."""
        error = judge(record).error
        on_purpose = record.cut_short or any(each.fault for each in record.ranks)
        on_purpose = on_purpose or any(each.fault for each in record.agents)
        if error is not None and not on_purpose:
            first, _, _ = str(error).partition("\n")
            warnings.warn(ElasticWarning(f"a launch failed, and nobody waited for its end: {first}"), stacklevel=3)

    # --- what there is ---

    @property
    def agents(self) -> list[RunningAgent]:
        """The agents, in order of start."""
        return [RunningAgent(self._launch, agent) for agent in list(self._launch.roster.agents)]

    @property
    def ranks(self) -> Mapping[int, RunningRank]:
        """The ranks of the world that formed last, by global rank."""
        return {rank.id.rank: _describe(rank) for rank in self._launch.roster.last_world()}

    @property
    def world_size(self) -> int:
        """Number of ranks of the world that formed last; 0 if none has so far."""
        ranks = self._launch.roster.last_world()
        return ranks[0].id.world_size if ranks else 0

    @property
    def restarts(self) -> int:
        """How often workers were restarted because some failed; membership changes do not count, as in torch."""
        return max((rank.id.restart for rank in self._launch.roster.ranks()), default=0)

    @property
    def worlds(self) -> list[int]:
        """Number of ranks of each round so far, in order, such as ``[4, 2]``."""
        return self._snapshot().worlds

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that torch has recorded so far (``torch.distributed.elastic.events``)."""
        return self._snapshot().events

    # --- faults ---

    def add_agent(self) -> RunningAgent:
        """Start one more agent: a node that comes late, or comes back.

        Raises:
            ArgumentError: The rendezvous knows a fixed number of nodes.
            ElasticError: The launch is over.
        """
        __tracebackhide__ = True
        backend = self._launch.plan.config["rdzv_backend"]
        if not takes_late_nodes(backend):
            raise ArgumentError(
                f'add_agent(): rdzv_backend "{backend}" knows a fixed number of nodes only; use "c10d", "etcd" or '
                '"etcd-v2"'
            )
        return RunningAgent(self._launch, self._launch.do(lambda do: do.add_agent()))

    def kill(self, *, rank: int) -> None:
        """End a rank with SIGKILL."""
        __tracebackhide__ = True
        self._signal("kill", rank, signal.SIGKILL, "run.kill(rank={})")

    def signal(self, *, rank: int, sig: int) -> None:
        """Send a signal to a rank."""
        __tracebackhide__ = True
        if not is_signal(sig):
            raise ArgumentError(f"run.signal(sig=): got {one_line(sig)}, expected a signal such as signal.SIGTERM")
        self._signal("signal", rank, sig, f"run.signal(rank={{}}, sig={signal_name(-sig)})")

    def stop(self, *, rank: int) -> None:
        """Stop a rank with SIGSTOP, a straggler, and wait until it has stopped."""
        __tracebackhide__ = True
        state = self._signal("stop", rank, signal.SIGSTOP, "run.stop(rank={})")
        deadline = clock.monotonic() + 10.0
        while state.alive() and state.pid is not None and not kernel.is_stopped(state.pid):
            if clock.monotonic() > deadline:
                raise ElasticError(f"run.stop(rank={rank}): the process has not stopped within 10 s")
            kernel.pause(0.001)  # the kernel tells only a parent

    def resume(self, *, rank: int) -> None:
        """Let a stopped rank go on (SIGCONT)."""
        __tracebackhide__ = True
        self._signal("resume", rank, signal.SIGCONT, "")

    def _signal(self, call: str, rank: int, signum: int, why: str) -> RankState:
        __tracebackhide__ = True
        self._check_rank(call, rank)

        def world() -> list[RankState] | None:
            return self._launch.formed_world() or None

        ranks = self._await(f"rank {rank} to start", world, None)
        state = next((state for state in ranks if state.id.rank == rank), None)
        if state is None:
            raise ArgumentError(f"run.{call}(rank=): got {rank}, but the world has {_ranks(len(ranks))}")
        if not state.alive():
            raise ElasticError(f"run.{call}(rank={rank}): rank {rank} has ended already ({_describe(state).state})")
        self._launch.do(lambda do: do.signal_rank(state, signum, why.format(rank)))
        return state

    # --- waiting ---

    def wait_for_output(self, pattern: str, *, rank: int | None = None, timeout: float | None = None) -> re.Match[str]:
        """Wait until a rank has written a whole line that matches, at any time since the launch began.

        Args:
            pattern: Regular expression, looked for in each line of standard output and error (``re.search``). A line
                is whole with its line break, or when its rank has ended.
            rank: Global rank whose output counts; by default any.
            timeout: Seconds to wait, or ``None`` to wait until the end of the launch.

        Returns:
            The match.

        Raises:
            ElasticTimeoutError: There was no such line by then; the launch goes on.
            ElasticError: The launch ended without one: its own error if it failed.
        """
        __tracebackhide__ = True
        check_timeout("run.wait_for_output", timeout)
        if rank is not None:
            self._check_rank("wait_for_output", rank)
        try:
            if not isinstance(pattern, str):
                raise TypeError("not a str")
            search = LineSearch(re.compile(pattern), self._launch.plan.directory)
        except (re.error, TypeError) as error:
            raise ArgumentError(
                f"run.wait_for_output(): got {one_line(pattern)}, expected a regular expression ({error})"
            ) from None

        def found() -> re.Match[str] | None:
            return search.find([state for state in self._launch.roster.ranks() if rank in (None, state.id.rank)])

        self._launch.watch_output()
        who = "a rank" if rank is None else f"rank {rank}"
        return self._await(f"{who} to write {pattern!r}", found, timeout)

    def wait_for_world(self, world_size: int, *, timeout: float | None = None) -> None:
        """Wait until the world that formed last has this many ranks, and all of them have started and none has failed.

        Args:
            world_size: Number of ranks.
            timeout: Seconds to wait, or ``None`` to wait until the end of the launch.

        Raises:
            ElasticTimeoutError: There was no such world by then; the launch goes on.
            ElasticError: The launch ended without one: its own error if it failed.
        """
        __tracebackhide__ = True
        check_timeout("run.wait_for_world", timeout)
        if type(world_size) is not int or world_size < 1:
            raise ArgumentError(f"run.wait_for_world(): got {one_line(world_size)}, expected an int >= 1")
        if world_size > MOST:
            raise ArgumentError(f"run.wait_for_world(): got {one_line(world_size)}, expected an int >= 1, up to {MOST}")
        what = f"a world of {world_size} rank{'' if world_size == 1 else 's'}"
        self._await(what, lambda: len(self._launch.sound_world()) == world_size or None, timeout)

    def wait(self, timeout: float | None = None, *, check: bool = True) -> LaunchResult:
        """Wait for the end of the launch.

        Args:
            timeout: Seconds after which the launch is ended, if its own deadline does not come first.
            check: Raise if the launch failed; ``False`` returns the result, with its ``failures``.

        Raises:
            WorkerFailedError: A rank failed; also torch's ``ChildFailedError``.
            AgentFailedError: An agent failed, or a node was lost that the others could not do without.
            ElasticTimeoutError: The deadline came.
            ElasticError: The launch failed otherwise.
        """
        __tracebackhide__ = True
        check_timeout("run.wait", timeout)
        refuse_no_bool("run.wait(check=)", check)
        self._told = True
        self._launch.let_end(timeout)
        return self._owner.finish(self._launch, check=check)

    def close(self) -> None:
        """End whatever is left of the launch, and wait until nothing is."""
        if self._closed:
            return
        self._closed = True
        self._launch.close()
        if self._launch.record is not None:
            self._owner.keep(self._launch.record)

    def _await(self, what: str, found: Callable[[], T | None], timeout: float | None) -> T:
        __tracebackhide__ = True
        try:
            return await_in(self._launch, what, found, timeout)
        except ElasticError:
            self._told = self._told or self._launch.record is not None
            raise

    def _check_rank(self, call: str, rank: object) -> None:
        __tracebackhide__ = True
        if type(rank) is not int or rank < 0:
            raise ArgumentError(f"run.{call}(rank=): got {one_line(rank)}, expected an int >= 0")
        if rank >= self._most:
            raise ArgumentError(
                f"run.{call}(rank=): got {one_line(rank)}, but the launch has at most {_ranks(self._most)}"
            )

    @property
    def _most(self) -> int:
        """The most ranks that a world of the launch may have."""
        return self._launch.plan.nproc * int(self._launch.plan.config["max_nodes"])

    def _snapshot(self) -> LaunchResult:
        return judge(self._launch.snapshot()).result

    def __repr__(self) -> str:
        return f"<launch of {self._launch.plan.name or 'a command'}, {self.world_size} ranks, {self.agents}>"


def _ranks(number: int) -> str:
    return "1 rank (0)" if number == 1 else f"{number} ranks (0 to {number - 1})"


def _describe(rank: RankState) -> RunningRank:
    if rank.finished is not None:
        state = "SUCCEEDED"
    elif rank.bad() or rank.over() or rank.doomed():
        state = "FAILED"
    elif rank.hello_ns is None:
        state = "STARTING"
    else:
        state = "STOPPED" if rank.pid is not None and kernel.is_stopped(rank.pid) else "RUNNING"
    return RunningRank(rank=rank.id.rank, pid=rank.pid, agent=rank.id.node, node_rank=rank.id.group_rank, state=state)
