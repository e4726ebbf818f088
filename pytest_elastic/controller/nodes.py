"""The agents and ranks of a launch that are on other machines, as its supervisor sees them."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Protocol

from pytest_elastic import clock
from pytest_elastic.channel import Peer
from pytest_elastic.cluster.messages import (
    AgentBegan,
    AgentEnded,
    EndLaunch,
    KillAll,
    LaunchEnded,
    ProcessEnded,
    SendSignal,
    StartAgent,
    Sync,
    Synced,
    Watch,
    Written,
)
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.site import Member
from pytest_elastic.messages import AgentOrder, RankOrder

_ON_ITS_WAY: Final = 2.0
"""Seconds that the last words of a process get to arrive, which take another way than the news of its end."""
_END: Final = 10.0
"""Seconds that another machine gets to leave nothing of a launch."""
_SYNC: Final = 5.0
_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class NodeLost:
    """Nothing more is to come from a machine.

    Attributes:
        reason: Why.
    """

    reason: str


class Holder(Protocol):
    """Who takes note of what happens to agents and ranks on other machines."""

    def agent_began(self, node: int, process: RemoteProcess) -> None:
        """Take hold of an agent."""

    def agent_peer(self, node: int) -> Peer | None:
        """Return the connection of an agent."""

    def agent_ended(self, node: int, end: AgentEnded) -> None:
        """Take note that an agent has ended."""

    def rank_peer(self, node: int, pid: int) -> Peer | None:
        """Return the connection of a rank."""

    def rank_ended(self, node: int, pid: int) -> None:
        """Take note that a rank has ended."""

    def node_lost(self, node: int, reason: str) -> None:
        """Take note that nothing more is to come from a machine."""


class RemoteProcess:
    """A process on another machine, as :class:`~pytest_elastic.kernel.ProcessHandle` is one on this.

    Attributes:
        pid: Its process id there.
        fd: ``None``: nothing of it can be waited for here.
    """

    fd: Final = None

    def __init__(self, node: RemoteNode, pid: int) -> None:
        self.pid: Final = pid
        self._node = node
        self._gone = False

    def alive(self) -> bool:
        """Tell whether nothing was heard of its end."""
        return not self._gone

    def note_end(self) -> None:
        """Take note that it has ended."""
        self._gone = True

    def send(self, signum: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if not self._gone:
            self._node.signal(self.pid, signum, wakes=False)

    def wake_by(self, signum: int) -> bool:
        """Send a signal, on which a stopped process acts first when it goes on; it is not known whether it was."""
        if not self._gone:
            self._node.signal(self.pid, signum, wakes=True)
        return False

    def close(self) -> None:
        """Let go of it."""
        self._gone = True


class RemoteNode:
    """One node of a launch, on another machine. Its methods belong to the supervisor's thread.

    Args:
        member: The controller there.
        plan: The launch.
        node: Index of its agent.
        wake: Wakes the supervisor; may be called from any thread.
    """

    def __init__(self, member: Member, plan: LaunchPlan, node: int, wake: Callable[[], None]) -> None:
        self._member = member
        self._plan = plan
        self._launch: Final = plan.scratch.name
        self._heard: deque[object] = deque()
        self._wake = wake
        self._processes: dict[int, RemoteProcess] = {}
        self._agent_pid: int | None = None
        self._departing: list[tuple[float, AgentEnded | ProcessEnded]] = []
        self._killed = False
        self._synced = -1
        self._news = threading.Event()
        self.node: Final = node
        self.lost = ""
        self.ended = False
        self.started = False
        self.leftovers: tuple[str, ...] = ()
        self._unwritten = ""

    @property
    def host(self) -> str:
        """Name of the machine."""
        return self._member.host

    def start(self, agent: AgentOrder, ranks: RankOrder, *, torch_only: bool) -> None:
        """Have the agent started."""
        self.started = True
        self._member.open(self._launch, self._hear)
        site = self._plan.site
        # What is each machine's own does not go there, nor does any key.
        self._member.tell(
            StartAgent(
                launch=self._launch,
                agent=replace(agent, environ={}, key=b"", state_key=None, clock_shift_ns=self._member.shift_ns),
                ranks=replace(ranks, environ={}, key=b""),
                extra=site.extra,
                removed=site.removed,
                torch_only=torch_only,
                temporary=str(self._plan.temporary),
                token=self._launch,
            )
        )

    def _hear(self, message: object) -> None:
        self._heard.append(message)
        self._news.set()
        self._wake()

    def process(self, pid: int) -> RemoteProcess:
        """Take hold of a process there, and be told of its end."""
        if pid not in self._processes:
            self._processes[pid] = RemoteProcess(self, pid)
            if pid != self._agent_pid:
                self._member.tell(Watch(launch=self._launch, pid=pid))
            if self.lost:
                self._processes[pid].note_end()
        return self._processes[pid]

    def signal(self, pid: int, signum: int, *, wakes: bool) -> None:
        """Send a signal to a process there."""
        self._member.tell(SendSignal(launch=self._launch, pid=pid, signum=int(signum), wakes=wakes))

    def kill(self) -> None:
        """End every process there, also those that are still to come."""
        if not self._killed and self.started:
            self._killed = True
            self._member.tell(KillAll(launch=self._launch))

    def look(self, holder: Holder) -> None:
        """Take what was heard, in order; what a process has said itself comes before its end."""
        for _ in range(_AT_ONCE):  # the supervisor has clocks to look at
            if not self._heard:
                break
            self._take(self._heard.popleft(), holder)
        now = clock.monotonic()
        for entry in list(self._departing):
            until, end = entry
            pid = end.pid if isinstance(end, ProcessEnded) else None
            peer = holder.agent_peer(self.node) if pid is None else holder.rank_peer(self.node, pid)
            if peer is None or peer.gone() or now >= until or self.lost:
                self._departing.remove(entry)
                self._depart(end, holder)

    def _depart(self, end: AgentEnded | ProcessEnded, holder: Holder) -> None:
        pid = end.pid if isinstance(end, ProcessEnded) else self._agent_pid
        if pid in self._processes:
            self._processes[pid].note_end()
        if isinstance(end, ProcessEnded):
            holder.rank_ended(self.node, end.pid)
        else:
            holder.agent_ended(self.node, end)

    def _take(self, message: object, holder: Holder) -> None:
        if self.lost:
            return
        if isinstance(message, Written):
            self._write(message)
        elif isinstance(message, AgentBegan):
            self._agent_pid = message.pid
            holder.agent_began(self.node, self.process(message.pid))
        elif isinstance(message, (AgentEnded, ProcessEnded)):
            self._departing.append((clock.monotonic() + _ON_ITS_WAY, message))
        elif isinstance(message, Synced):
            self._synced = message.number
        elif isinstance(message, LaunchEnded):
            self.ended, self.leftovers = True, message.leftovers
        elif isinstance(message, NodeLost):
            self.lost = message.reason
            for process in self._processes.values():
                process.note_end()
            self._departing.clear()
            holder.node_lost(self.node, message.reason)

    def _write(self, message: Written) -> None:
        relative = PurePosixPath(message.path)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            return
        coverage = self._plan.coverage
        if message.root == "coverage":
            if coverage is None:
                return
            file = Path(coverage.files).parent / f"{self.node}-{relative.name}"
        elif message.root == "logs":
            file = self._plan.directory / relative
        else:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _open_to_write_into(file) as stream:
                stream.seek(message.offset)
                stream.write(message.data)
        except OSError as error:
            if not self._unwritten:
                self._unwritten = f"what ranks on {self.host} wrote cannot be kept: {error.strerror or error}"

    @property
    def patience(self) -> float | None:
        """Seconds until something is to be looked at, though nothing was heard."""
        if self._heard:
            return 0.0
        return 0.02 if self._departing else None

    def sync(self, number: int, holder: Holder) -> None:
        """Wait until what was written so far is here."""
        if self.started and not self.lost and not self.ended:
            self._member.tell(Sync(launch=self._launch, number=number))
            self._wait(lambda: self._synced >= number, _SYNC, holder)

    def end(self, holder: Holder) -> str:
        """Leave nothing there, and have everything here; return what there is to say of it."""
        if self.started and not self.lost:
            self._member.tell(EndLaunch(launch=self._launch))
            self._wait(lambda: self.ended, _END, holder)
        self._member.close(self._launch)
        return self._unwritten

    def _wait(self, reached: Callable[[], bool], seconds: float, holder: Holder) -> None:
        until = clock.monotonic() + seconds
        while True:
            self._news.clear()
            self.look(holder)
            if reached() or self.lost or clock.monotonic() >= until:
                return
            self._news.wait(min(0.05, max(0.0, until - clock.monotonic())))


class Nodes:
    """The nodes of one launch that are on other machines; there are none where all are on this one."""

    def __init__(self, plan: LaunchPlan, wake: Callable[[], None]) -> None:
        self._remote = {
            index: RemoteNode(member, plan, index, wake)
            for index, member in enumerate(plan.site.members)
            if member is not None
        }
        self._syncs = 0

    def __bool__(self) -> bool:
        return bool(self._remote)

    def remote(self, node: int) -> RemoteNode | None:
        """Return a node, or ``None`` for one on this machine."""
        return self._remote.get(node)

    def look(self, holder: Holder) -> None:
        """Take what was heard."""
        for node in self._remote.values():
            node.look(holder)

    def patience(self) -> float | None:
        """Return the seconds until something is to be looked at, or ``None``."""
        return min((each for node in self._remote.values() if (each := node.patience) is not None), default=None)

    def kill(self) -> None:
        """End everything there."""
        for node in self._remote.values():
            node.kill()

    def sync(self, holder: Holder) -> None:
        """Wait until what was written so far is here."""
        self._syncs += 1
        for node in self._remote.values():
            node.sync(self._syncs, holder)

    def end(self, holder: Holder) -> tuple[list[str], list[str]]:
        """Leave nothing there; return what ranks had left behind, and what else there is to say."""
        notes = [note for node in self._remote.values() if (note := node.end(holder))]
        left = [f"{line} on {node.host}" for node in self._remote.values() for line in node.leftovers]
        return left, notes


def _open_to_write_into(file: Path) -> BinaryIO:
    """Open a file to be written at any place, with all that is there kept."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb")
