"""What is known of a launch when it is over: plain data from which every verdict is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_elastic.messages import (
    AgentFinished,
    RankCaught,
    RankExited,
    RankFailed,
    RankFinished,
    RankId,
    RankReport,
    RankWarned,
)

Work = Literal["test", "function", "script", "command"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """A rank waited for the others, in a call that all of them make.

    Attributes:
        world: Its world.
        rank: Which rank.
        what: Name of what it called.
        begin_ns: ``time.monotonic_ns()`` when it did.
        end_ns: The same when it got its answer, or ``None`` if it never did.
    """

    world: str
    rank: int
    what: str
    begin_ns: int
    end_ns: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """An agent has started ranks; times are ``time.monotonic_ns()``.

    Attributes:
        node: Index of the agent, in order of start.
        world: The world that formed.
        sought_ns: When the agent came to the rendezvous.
        met_ns: When that was complete.
        started_ns: When its ranks had been started.
    """

    node: int
    world: str
    sought_ns: int
    met_ns: int
    started_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RankRecord:
    """One rank of one world.

    Attributes:
        id: Which rank.
        directory: Where its output is.
        begun: How much of that, of standard output and standard error, is of earlier tests.
        leaks: What its test left changed, where it is kept for others.
        hello_ns: When it reported, or ``None`` if it never did.
        failed: Its own record of a failure.
        finished: Its own record of success.
        caught: Its last word on a phase of its test that failed, sent before the report was made.
        reports: pytest's reports, in order.
        exited: What the agent saw of its end.
        killed: The controller killed it.
        fault: What sent it a signal on purpose last, or an empty text.
        fault_signal: That signal.
        was_stopped: It was stopped by a signal (SIGSTOP) at the deadline.
        server_said: Last line of the preloaded server's log, where the rank ended before it could start.
        fault_ns: ``time.monotonic_ns()`` when that signal was sent.
        closed_ns: The same when the controller began to end it, or ``None``.
        pid: Its process id, or ``None`` if that was never told.
        memory: When how many bytes of it were in memory, where that was looked at.
        host: Name of its machine, where a launch is on several; else an empty text.
    """

    id: RankId
    directory: Path
    begun: tuple[int, int] = (0, 0)
    leaks: tuple[str, ...] = ()
    hello_ns: int | None = None
    failed: RankFailed | None = None
    finished: RankFinished | None = None
    caught: RankCaught | None = None
    reports: tuple[RankReport, ...] = ()
    exited: RankExited | None = None
    killed: bool = False
    fault: str = ""
    fault_signal: int = 0
    was_stopped: bool = False
    server_said: str = ""
    fault_ns: int = 0
    closed_ns: int | None = None
    pid: int | None = None
    memory: tuple[tuple[int, int], ...] = ()
    host: str = ""

    @property
    def never_started(self) -> bool:
        """It ended by itself, badly, before it said a word."""
        return self.hello_ns is None and self.exited is not None and self.exited.exitcode > 0 and not self.killed


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentRecord:
    """One agent.

    Attributes:
        node: Index, in order of start.
        finished: Its own last message.
        exitcode: Exit code of its process, or ``None`` if nobody saw it or it has no process.
        killed: The controller killed it.
        said_hello: It came to life.
        ended: Its process has ended.
        log: What it wrote.
        fault: What sent it a signal on purpose last, or an empty text.
        lost_ns: ``time.monotonic_ns()`` when it was lost (it died without a word, or left by a signal), or ``None``.
        rounds: Its first rank in each round that it started workers for.
        hello_ns: When it came to life, or ``None``.
        fault_ns: When that signal was sent.
        host: Name of its machine, where a launch is on several; else an empty text.
        controller: Number of the pytest process behind it, or ``None`` where it is this one.
        cut: Why nothing more came from that machine, or an empty text.
    """

    node: int
    finished: AgentFinished | None
    exitcode: int | None
    killed: bool
    said_hello: bool
    ended: bool = True
    log: str = ""
    fault: str = ""
    lost_ns: int | None = None
    rounds: tuple[RankId, ...] = ()
    hello_ns: int | None = None
    fault_ns: int = 0
    host: str = ""
    controller: int | None = None
    cut: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchRecord:
    """One launch.

    Attributes:
        name: Name of the entry point.
        work: What the ranks ran. Only of a command the exit code is the outcome; the others tell how they ended.
        timeout: The deadline in seconds, or ``None``.
        timed_out: The deadline came before the end.
        started_ns: ``time.monotonic_ns()`` at the start.
        ended_ns: The same at the end.
        nodes: How many nodes a world needs.
        nproc: Ranks a node.
        worlds: Names of the worlds, in the order in which they formed.
        ranks: Every rank of every world.
        agents: In order of start.
        events: torch's events.
        leftovers: What ranks left behind.
        warnings: Warnings of ranks.
        directory: Where all output is.
        server_lost: The preloaded server died; how, and below that its last words.
        server_words: What the server wrote last, where an agent could not say how it ended.
        cut_short: Whoever launched it ended it.
        split: Names of worlds that ran at the same time; empty if there were none.
        faults_left: Faults that were asked for and did not happen.
        goes_on: The launch is not over: its ranks have run a test, and wait for another.
        timeout_by: Who set the deadline, where that is another plugin.
        unreachable: The endpoint of the rendezvous, where it took no connections at the deadline; else empty.
        notes: What else whoever launched it is to know.
        waits: Where ranks waited for each other, by the plugin's own means.
        rounds: When agents started ranks, those of ranks that are kept too.
    """

    name: str
    work: Work
    timeout: float | None
    timed_out: bool
    started_ns: int
    ended_ns: int
    nodes: int
    nproc: int
    worlds: tuple[str, ...]
    ranks: tuple[RankRecord, ...]
    agents: tuple[AgentRecord, ...]
    events: tuple[str, ...]
    leftovers: tuple[str, ...]
    directory: Path
    server_lost: str | None = None
    server_words: str = ""
    warnings: tuple[RankWarned, ...] = ()
    cut_short: bool = False
    split: tuple[str, ...] = ()
    faults_left: tuple[str, ...] = ()
    goes_on: bool = False
    timeout_by: str = ""
    unreachable: str = ""
    notes: tuple[str, ...] = ()
    waits: tuple[Wait, ...] = ()
    rounds: tuple[Round, ...] = ()

    def last_world(self) -> tuple[RankRecord, ...]:
        """Return the ranks of the world that formed last, in order of rank."""
        return self.of_world(self.worlds[-1]) if self.worlds else ()

    def of_world(self, world: str) -> tuple[RankRecord, ...]:
        """Return the ranks of one world, in order of rank."""
        return tuple(sorted((r for r in self.ranks if r.id.world == world), key=lambda r: r.id.rank))
