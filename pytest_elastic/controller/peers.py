"""What the controller knows of one rank or agent while a launch runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_elastic import clock, kernel
from pytest_elastic.channel import Peer
from pytest_elastic.forking import read_status
from pytest_elastic.messages import (
    AgentFinished,
    AgentHello,
    AgentOrder,
    RankCaught,
    RankExited,
    RankFailed,
    RankFinished,
    RankId,
    RankReport,
)
from pytest_elastic.rank_directory import rank_directory
from pytest_elastic.report.records import AgentRecord, RankRecord

if TYPE_CHECKING:
    from pytest_elastic.controller.nodes import RemoteProcess


_OF_LOST_SERVER = 255
"""What multiprocessing reports for every child of a server that is gone."""


@dataclass(slots=True)
class RankState:
    """One rank of one world."""

    id: RankId
    pid: int | None = None
    handle: kernel.ProcessHandle | RemoteProcess | None = None
    peer: Peer | None = None
    hello_ns: int | None = None
    failed: RankFailed | None = None
    finished: RankFinished | None = None
    caught: RankCaught | None = None
    reports: list[RankReport] = field(default_factory=list)
    exited: RankExited | None = None
    killed: bool = False
    fault: str = ""
    fault_signal: int = 0
    closed_ns: int | None = None
    was_stopped: bool = False
    may_leave: bool = False
    begun: tuple[int, int] = (0, 0)
    leaks: tuple[str, ...] = ()
    writes_stacks: bool = False
    fault_ns: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)

    def begin_test(self, directory: Path) -> None:
        """Forget the last test, and take note of where the output of the next one begins."""
        self.failed = self.finished = self.caught = None
        self.leaks = ()
        self.reports = []
        self.memory = []
        self.begun = written_by(self.directory_in(directory))
        if self.hello_ns is not None:
            self.hello_ns = clock.monotonic_ns()

    def has_written(self) -> bool:
        """Tell whether the rank's test has written or logged anything by its last report."""
        return any(report.written != self.begun or report.sections for report in self.reports)

    def directory_in(self, directory: Path) -> Path:
        """Return where the rank writes.

        Args:
            directory: Directory of the launch's output.
        """
        return rank_directory(directory, self.id)

    def hold(self, pid: int, find: Callable[[int], kernel.ProcessHandle | RemoteProcess]) -> bool:
        """Take hold of the rank's process; return whether that is new.

        Args:
            pid: Its process id.
            find: Takes hold of a process of its machine.
        """
        if self.handle is not None:
            return False
        self.pid = pid
        self.handle = find(pid)
        return True

    def alive(self) -> bool:
        """Tell whether the process is known and runs."""
        return self.handle is not None and self.handle.alive()

    def over(self) -> bool:
        """Tell whether nothing more is to come from this rank."""
        return self.exited is not None or (self.handle is not None and not self.handle.alive())

    def bad(self) -> bool:
        """Tell whether this rank has failed for sure."""
        if self.failed is not None or self.caught is not None or any_failed(self.reports):
            return True
        if self.exited is None or self.exited.exitcode == 0:
            return False
        return self.finished is None or not (self.killed or self.exited.stopped)

    def died_with_server(self) -> bool:
        """Tell whether the rank has ended without a word, by what an agent says of it whose server is gone."""
        silent = self.failed is None and self.caught is None and self.finished is None
        return silent and self.exited is not None and self.exited.exitcode == _OF_LOST_SERVER

    def doomed(self) -> bool:
        """Tell whether the rank has been killed, on purpose or not, even if it still seems to live."""
        return self.killed or self.closed_ns is not None or self.fault_signal == signal.SIGKILL

    def counts(self, time_ns: int) -> bool:
        """Tell whether what the rank did at a time counts.

        It does not once the controller ends ranks: those that are killed last see the connections of the first close.
        Nor does anything that a stopped rank did after it was woken for its stacks.
        """
        return not self.was_stopped and (self.closed_ns is None or time_ns < self.closed_ns)

    def kill(self) -> None:
        """End the process now."""
        if self.alive():
            assert self.handle is not None
            self.killed = True
            self.handle.send(signal.SIGKILL)

    def record(self, directory: Path) -> RankRecord:
        """Return what is known, for the verdict."""
        return RankRecord(
            id=self.id,
            directory=self.directory_in(directory),
            begun=self.begun,
            leaks=self.leaks,
            hello_ns=self.hello_ns,
            failed=self.failed,
            caught=self.caught,
            finished=self.finished,
            reports=tuple(self.reports),
            exited=self.exited,
            killed=self.killed,
            fault=self.fault,
            fault_signal=self.fault_signal,
            fault_ns=self.fault_ns,
            was_stopped=self.was_stopped,
            closed_ns=self.closed_ns,
            pid=self.pid,
            memory=tuple(self.memory),
        )


def written_by(directory: Path) -> tuple[int, int]:
    """Return how many bytes a rank has written to standard output and standard error."""
    sizes = []
    for stream in ("stdout", "stderr"):
        try:
            sizes.append(os.stat(f"{directory}/{stream}.log").st_size)
        except OSError:
            sizes.append(0)
    return sizes[0], sizes[1]


def kill_together(ranks: Collection[RankState]) -> None:
    """End ranks now; what any of them does of the others' deaths does not count."""
    now = clock.monotonic_ns()
    for rank in ranks:
        if rank.handle is None or rank.alive():
            rank.closed_ns = rank.closed_ns or now
    for rank in ranks:
        rank.kill()


def any_failed(reports: list[RankReport]) -> bool:
    """Tell whether one of a rank's reports is a failure."""
    return any(report.outcome == "failed" for report in reports)


def has_ended_call(reports: list[RankReport]) -> bool:
    """Tell whether the call of a rank's test is over, or there was none."""
    return any(report.when in ("call", "teardown") and not report.subtest for report in reports)


@dataclass(slots=True)
class AgentState:
    """One agent."""

    order: AgentOrder
    host: str = ""
    controller: int | None = None
    status_fd: int | None = None
    status: bytes = b""
    handle: kernel.ProcessHandle | RemoteProcess | None = None
    peer: Peer | None = None
    hello: AgentHello | None = None
    finished: AgentFinished | None = None
    exitcode: int | None = None
    ended: bool = False
    killed: bool = False
    fault: str = ""
    lost_ns: int | None = None
    cut: str = ""
    elsewhere: bool = False
    rounds: list[RankId] = field(default_factory=list)
    hello_ns: int | None = None
    fault_ns: int = 0

    def note_end(self) -> bool:
        """Take note that the agent has ended; return whether it is lost: dead without a word, or gone by a signal."""
        if self.finished is not None:
            self.lost_ns = self.finished.left_ns
        elif self.exitcode is not None and not self.killed:  # else it ended with the server
            self.lost_ns = self.lost_ns or clock.monotonic_ns()
        return self.lost_ns is not None

    def read_status(self) -> tuple[kernel.ProcessHandle | None, bool]:
        """Read what the server says of the process; return it if it has just started, and whether it has ended."""
        assert self.status_fd is not None
        data = os.read(self.status_fd, 16 - len(self.status))
        self.status += data
        started = None
        if self.handle is None and len(self.status) >= 8:
            self.handle = started = kernel.ProcessHandle(read_status(self.status[:8]))
        if len(self.status) == 16:
            self.exitcode = read_status(self.status[8:])
        self.ended = len(self.status) == 16 or not data
        return started, self.ended

    def forget_process(self) -> set[int]:
        """Forget the process that was held, which was not the agent; return its id."""
        pids = set()
        if self.handle is not None:
            pids.add(self.handle.pid)
            self.handle.close()
        self.handle, self.exitcode, self.ended, self.killed = None, None, False, False
        return pids

    def runs(self) -> bool:
        """Tell whether the agent is alive, as far as one can see now."""
        return not self.ended and (self.handle is None or self.handle.alive())

    def kill(self) -> None:
        """End the process now."""
        if not self.ended and self.handle is not None:
            self.killed = True
            self.handle.send(signal.SIGKILL)

    def record(self) -> AgentRecord:
        """Return what is known, for the verdict."""
        try:
            log = (Path(self.order.directory) / f"agent-{self.order.node}.log").read_text(errors="replace")
        except OSError:
            log = ""
        return AgentRecord(
            node=self.order.node,
            finished=self.finished,
            exitcode=self.exitcode,
            killed=self.killed,
            said_hello=self.hello is not None,
            ended=self.ended,
            fault=self.fault,
            lost_ns=self.lost_ns,
            rounds=tuple(self.rounds),
            hello_ns=self.hello_ns,
            fault_ns=self.fault_ns,
            log=log,
            host=self.host,
            controller=self.controller,
            cut=self.cut,
        )
