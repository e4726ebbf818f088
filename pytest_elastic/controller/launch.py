"""One launch: starts the agents, hears everybody, keeps the deadline, and leaves nothing behind.

A thread of its own supervises, so that the test's thread may do what it likes (wait, be interrupted, be timed out by
another plugin) and what a rank says is heard all the same.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pickle
import selectors
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from pytest_elastic import clock, kernel, tasks
from pytest_elastic.channel import Peer, Reception
from pytest_elastic.controller.clocks import Clocks
from pytest_elastic.controller.failure_log import FailureLog
from pytest_elastic.controller.inline_agent import PATIENCE, InlineAgent
from pytest_elastic.controller.live import LiveLines, OutputTails
from pytest_elastic.controller.peers import AgentState, RankState
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.roster import Roster
from pytest_elastic.controller.server import PreloadedServer
from pytest_elastic.controller.serving import Fixtures, RankServices
from pytest_elastic.controller.stack_request import StackRequest, wrote_stacks
from pytest_elastic.controller.sweeping import sweep
from pytest_elastic.forking import Task, read_status
from pytest_elastic.messages import (
    AgentFinished,
    AgentHello,
    AgentOrder,
    EventRecorded,
    Go,
    Leave,
    Message,
    RankCaught,
    RankExited,
    RankFailed,
    RankFinished,
    RankHello,
    RankLogged,
    RankReport,
    RankWarned,
    RoundStarted,
)
from pytest_elastic.report.records import LaunchRecord

_TICK: Final = 0.02
_WORDS: Final = (RankCaught, RankFailed, RankReport, RankFinished)
"""What a rank tells of its test or function."""
_SERVER_PATIENCE: Final = 1.0
"""Seconds that the server gets to say that a killed agent has ended; it needs a few milliseconds."""


class Launch:
    """A running launch.

    Args:
        plan: What to run.
        server: The server that forks agents and ranks.
        write: Writes lines to the terminal while the launch runs.
        stream: What ranks write goes to the terminal as well as to their logs.
        fixtures: The controller's fixtures, for ranks that run a test.

    Attributes:
        live: Lines on their way to the terminal.
        over: Called once nothing is left of the launch.
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
        self.live: Final = LiveLines(write)
        self._tails = OutputTails(plan.directory, self.live) if stream else None
        self._failures = FailureLog(plan.failure_log, plan.nodeid) if plan.failure_log is not None else None
        self.name: Final = plan.scratch.name
        self._server = server
        self.over: Callable[[], object] = lambda: None
        self._selector = selectors.DefaultSelector()
        self._reception = Reception(
            str(server.directory / f"{self.name}.sock"), plan.key, self._selector, self._welcome
        )
        self.roster: Final = Roster()
        self._peers: list[Peer] = []
        self._store: socket.socket | None = None
        self._host_status: int | None = None
        self._inline: InlineAgent | None = None
        self._clocks = Clocks(timeout=None, grace=plan.grace)
        self._timed_out = False
        self._stacks: StackRequest | None = None
        self._last_looks: list[tuple[StackRequest, list[RankState]]] = []
        self._killing_since: float | None = None
        self._cancelled = threading.Event()
        self._wants_stacks = False
        self._server_lost: str | None = None
        self._broken: str | None = None
        self._unsafe: str | None = None
        self._error: BaseException | None = None
        self._record: LaunchRecord | None = None
        self._started_ns = 0
        self._posted: deque[tuple[Peer, tuple[bytes, ...]]] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._services = RankServices(self.post, self._errands.append, fixtures)
        self.changed: Final = threading.Condition()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"elastic-{self.name}", daemon=True)

    # --- for the thread of the test ---

    def start(self) -> None:
        """Start the agents. Returns at once."""
        self._started_ns = clock.monotonic_ns()
        self._clocks = Clocks(timeout=self.plan.timeout, grace=self.plan.grace)
        self._thread.start()

    def wait(self) -> LaunchRecord:
        """Wait for the end, which the deadline bounds.

        Raises:
            BaseException: Whatever interrupts the wait (Ctrl-C, a time-out of another plugin); the launch is ended.
        """
        self.wait_until(lambda: False)
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._record is not None
        return self._record

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Wait until ``reached()`` or the end of the launch; return what ``reached()`` says then.

        What the supervisor wants done in the thread of the test is done meanwhile.
        """
        __tracebackhide__ = True
        try:
            while (errand := self._next_errand(reached)) is not None:
                errand()
        except BaseException as error:
            # A person who presses Ctrl-C does not wait for stacks; a time-out of another plugin is to have them.
            self.close(stacks=isinstance(error, (Exception, pytest.fail.Exception)))
            raise
        self.live.show()
        return reached()

    def _next_errand(self, reached: Callable[[], bool]) -> Callable[[], None] | None:
        __tracebackhide__ = True
        with self.changed:
            while not self._errands and not self._done.is_set() and not reached():
                # With a time-out, because a wait without one does not let Ctrl-C through everywhere.
                self.changed.wait(1.0)
                self.live.show()
            return self._errands.popleft() if self._errands else None

    def post(self, peer: Peer, *frames: bytes) -> None:
        """Send pickles to a peer; may be called from any thread."""
        self._posted.append((peer, frames))
        self._reception.wake()

    def close(self, *, stacks: bool = False) -> None:
        """End whatever is left of the launch, and wait until nothing is.

        Args:
            stacks: Have ranks write where they are before they are killed.
        """
        self._wants_stacks = stacks
        self._cancelled.set()
        self._reception.wake()
        self._thread.join()
        self.live.show()

    @property
    def record(self) -> LaunchRecord | None:
        """What is known of the launch once it is over."""
        return self._record

    @property
    def world_size(self) -> int:
        """Number of ranks: of the last world, or while there is none of all nodes."""
        ranks = self.roster.last_world()
        return ranks[0].id.world_size if ranks else self.plan.nproc * self.plan.agents

    @property
    def admitted(self) -> bool:
        """An agent has said that it, and the server behind it, are fit to start."""
        return any(agent.hello is not None for agent in self.roster.agents)

    @property
    def broken(self) -> str | None:
        """Traceback of a preload that failed: no rank was started."""
        return self._broken

    @property
    def unsafe(self) -> str | None:
        """Why ranks cannot be forked from this server: no rank was started."""
        return self._unsafe

    # --- the supervisor ---

    def _supervise(self) -> None:
        try:
            self._start_agents()
            while not self.roster.over():
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                if self._inline is not None:
                    self._look_at_inline_agent(self._inline)
                self._look_at_clocks()
                self._deliver()
                if self._tails is not None:
                    self._tails.follow(self.roster.ranks())
                with self.changed:
                    self.changed.notify_all()
        except BaseException as error:  # noqa: BLE001 (raised in the thread of the test)
            self._error = error
            self._kill_all()
        finally:
            try:
                self._clean_up()
                self._record = self._make_record()
            except BaseException as error:  # noqa: BLE001
                self._error = self._error or error
            try:
                self.over()
            finally:
                self._done.set()
                with self.changed:
                    self.changed.notify_all()

    def _start_agents(self) -> None:
        plan = self.plan
        (plan.scratch / "rank.order").write_bytes(pickle.dumps(plan.rank_order(self._reception.address)))
        store = self._store = plan.open_store_socket()
        try:
            if plan.hosts_store_outside and store is not None:
                self._host_status = self._fork("store", tasks.host_store, (), [store.fileno()])
            for node in range(plan.agents):
                fds = []
                if store is not None and node == 0 and plan.config["rdzv_backend"] == "local":
                    fds = [store.fileno()]
                order = plan.agent_order(
                    node, self._reception.address, store_port=port_of(store), store_fd=0 if fds else None
                )
                self._start_agent(order, fds)
            if store is not None and not plan.holds_port:
                store.close()
        except OSError as error:
            self._server_lost = f"{error}\n{self._server.last_words()}"
            for agent in self.roster.agents:
                agent.ended = agent.ended or agent.status_fd is None
            self._kill_all()

    def _start_agent(self, order: AgentOrder, fds: list[int]) -> None:
        file = self.plan.scratch / f"agent-{order.node}.order"
        file.write_bytes(pickle.dumps(order))
        agent = AgentState(order=order)
        self.roster.agents.append(agent)
        what, name = tasks.run_agent, f"agent-{order.node}"
        if self.plan.inline:
            store_fd = fds[0] if fds else None
            self._inline = InlineAgent(order, self._server.address, store_fd, self._reception.wake)
            if self._server.word is not None:
                self._agent_arrived(replace(self._server.word, node=order.node, pid=os.getpid()), None)
                return
            what, name, fds = tasks.vouch_for_server, f"voucher-{order.node}", []
        agent.status_fd = self._fork(name, what, (str(file),), fds)
        self._selector.register(agent.status_fd, selectors.EVENT_READ, lambda: self._agent_status(agent))

    def _fork(self, name: str, target: Callable[..., None], args: tuple[Any, ...], fds: list[int]) -> int:
        return self._server.fork(Task(name, target, args), cwd=self.plan.cwd, sys_path=self.plan.sys_path, fds=fds)

    def _agent_status(self, agent: AgentState) -> None:
        started, ended = agent.read_status()
        if started is not None:
            self._server.known.add(started.pid)
            if self._killing_since is not None:
                agent.kill()
        if not ended:
            return
        self._forget_status(agent)
        if self._inline is not None and self._inline.started:
            self._server.known.difference_update(agent.forget_process())
            return  # The agent itself is another one.
        if agent.peer is not None:
            self._hear(agent.peer)
        if agent.exitcode is None:
            # Only the server's end closes this before it has told one.
            self._server_lost = self._server.last_words()
        # Its ranks are the server's children, not its own: they do not end with it.
        for rank in self.roster.of_node(agent.order.node):
            rank.kill()
        if agent.finished is None or agent.finished.state == "FAILED":
            self._clocks.agent_failed(alone=self.plan.agents == 1)

    def _welcome(self, peer: Peer) -> None:
        self._peers.append(peer)
        self._selector.register(peer, selectors.EVENT_READ, lambda: self._hear(peer))
        self._hear(peer)

    def _hear(self, peer: Peer) -> None:
        if peer.gone():
            return
        for message in peer.messages():
            self._take(message, peer)
        if peer.gone():
            self._selector.unregister(peer)
            peer.close()
        else:
            self._flush(peer)

    def _deliver(self) -> None:
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
        if isinstance(message, _WORDS) and self.roster.rank(message.id).was_stopped:
            return  # it was woken for its stacks only: what it does since then does not count
        self._services.hear(message, peer)
        if isinstance(message, RankHello):
            self._rank_arrived(message, peer)
        elif isinstance(message, RankFailed):
            self.roster.rank(message.id).failed = message
            self._rank_failed(message)
        elif isinstance(message, RankCaught):
            self.roster.rank(message.id).caught = message
            self._rank_failed(message)
        elif isinstance(message, RankReport):
            self.roster.rank(message.id).reports.append(message)
            if message.outcome == "failed":
                self._rank_failed(message)
        elif isinstance(message, RankFinished):
            rank = self.roster.rank(message.id)
            rank.finished = message
            self.roster.leftovers += [f"rank {message.id.rank} left {what} behind" for what in message.leftovers]
            self._let_rank_0_leave(message.id.world)
        elif isinstance(message, RankWarned):
            self.roster.warnings.append(message)
        elif isinstance(message, RankLogged):
            self.live.add(message.id.rank, message.text)
        elif isinstance(message, RankExited):
            rank = self.roster.rank(message.id)
            rank.exited = message
            if rank.peer is not None:
                self._hear(rank.peer)  # what it said before it ended counts first
            if message.exitcode != 0 or (rank.finished is None and self.plan.work != "command"):
                self._rank_failed(message)
        elif isinstance(message, RoundStarted):
            for id, pid in zip(message.ranks, message.pids, strict=True):  # noqa: A001
                self._hold(self.roster.rank(id), pid)
        elif isinstance(message, EventRecorded):
            self.roster.events.append(message.event)
        elif isinstance(message, AgentHello):
            self._agent_arrived(message, peer)
        elif isinstance(message, AgentFinished):
            self.roster.agents[message.node].finished = message

    def _rank_failed(self, message: RankFailed | RankCaught | RankReport | RankExited) -> None:
        """Note a failure where it survives this session, and have the rest of its world end."""
        if self._failures is not None:
            self._failures.note(message)
        world = message.id.world
        self._clocks.rank_failed(world)
        if not self.plan.config["max_restarts"]:
            self._let_rank_0_leave(world, anyway=True)

    def _let_rank_0_leave(self, world: str, *, anyway: bool = False) -> None:
        """Let the host of a world's store end when every other rank has told how it ended, or one has failed."""
        ranks = self.roster.of_world(world)
        host = ranks[0]
        if host.id.rank == 0 and host.finished is not None and host.peer is not None and not host.may_leave:
            told = [rank for rank in ranks if rank.finished is not None or rank.over()]
            if anyway or len(told) == host.id.world_size:
                host.may_leave = True
                host.peer.send(Leave())

    def _agent_arrived(self, hello: AgentHello, peer: Peer | None) -> None:
        agent = self.roster.agents[hello.node]
        agent.hello, agent.peer = hello, peer
        self._server.word = hello
        self._broken = self._broken or hello.broken
        if self.plan.needs_safe_server:
            self._unsafe = self._unsafe or hello.unsafe
        if self._broken is not None or self._unsafe is not None:
            self._kill_all()
            return
        if self._inline is not None and self._killing_since is None:
            self._inline.start()
        if peer is not None:
            peer.send(Go())

    def _look_at_inline_agent(self, inline: InlineAgent) -> None:
        """Take note that an inline agent has ended; it says nothing of it if it failed before it could speak."""
        [agent] = self.roster.agents
        if agent.ended or not inline.gone():
            return
        agent.ended = True
        for peer in self._peers:
            self._hear(peer)
        agent.finished = agent.finished or inline.finished
        for rank in self.roster.ranks():
            rank.kill()

    def _rank_arrived(self, hello: RankHello, peer: Peer) -> None:
        rank = self.roster.rank(hello.id)
        rank.hello_ns = clock.monotonic_ns()
        rank.peer = peer
        rank.writes_stacks = hello.writes_stacks
        self._hold(rank, hello.pid)
        if self._killing_since is not None or self.roster.agents[hello.id.node].ended:
            rank.kill()
        else:
            peer.send(Go())

    def _hold(self, rank: RankState, pid: int) -> None:
        if not rank.hold(pid):
            return
        self._server.known.add(pid)
        assert rank.handle is not None
        if rank.handle.fd is not None:
            self._selector.register(rank.handle.fd, selectors.EVENT_READ, lambda: self._rank_ended(rank))

    def _rank_ended(self, rank: RankState) -> None:
        assert rank.handle is not None
        if rank.handle.fd is not None:
            self._selector.unregister(rank.handle.fd)
            rank.handle.alive()  # notes that it is gone
            rank.handle.close()
        if rank.peer is not None:
            # All that it ever said has arrived; a child of its own may keep the connection open for longer.
            self._hear(rank.peer)
        self._services.gone(rank.id, "was gone")
        self._let_rank_0_leave(rank.id.world)

    # --- clocks ---

    def _patience(self) -> float | None:
        if self._stacks is not None or self._last_looks or self._tails is not None:
            return _TICK
        return 0.1 if self._killing_since is not None else self._clocks.patience()

    def _look_at_clocks(self) -> None:
        if self._cancelled.is_set() and self._wants_stacks:
            self._wants_stacks = False
            self._stacks = self._stacks or StackRequest(self.roster.ranks(), self.plan.directory)
        if self._killing_since is not None or (self._cancelled.is_set() and self._stacks is None):
            self._kill_all()  # also what has appeared since the last time
            self._give_up_on_server()
            self._give_up_on_inline_agent()
        if self._stacks is not None:
            if self._stacks.answered():
                self._stacks = None
                self._kill_all()
        elif self._clocks.deadline_has_come() and self._killing_since is None:
            self._timed_out = True
            if not self.admitted:
                self._server.ask_for_stacks()
            self._stacks = StackRequest(self.roster.ranks(), self.plan.directory)
        for world in self._clocks.expired_worlds():
            ranks = self.roster.of_world(world)
            # Others were told to end, and wrote where they were then.
            silent = [rank for rank in ranks if not wrote_stacks(rank, self.plan.directory)]
            self._last_looks.append((StackRequest(silent, self.plan.directory), ranks))
        for request, ranks in [look for look in self._last_looks if look[0].answered()]:
            self._last_looks.remove((request, ranks))
            for rank in ranks:
                rank.kill()
        if self._clocks.end_has_come():
            self._kill_all()

    # --- the end ---

    def _kill_all(self) -> None:
        self._killing_since = self._killing_since or clock.monotonic()
        for rank in self.roster.ranks():
            rank.kill()
        for agent in self.roster.agents:
            agent.kill()
            if agent.handle is None and agent.status_fd is not None:
                # The server has not come to fork it (and what it forks now is refused): it is not waited for.
                self._forget_status(agent)
            if self._inline is not None and not self._inline.started and agent.status_fd is None:
                agent.ended = True

    def _forget_status(self, agent: AgentState) -> None:
        """Count an agent as ended: the server has said so, or is not waited for any longer."""
        assert agent.status_fd is not None
        self._selector.unregister(agent.status_fd)
        os.close(agent.status_fd)
        agent.status_fd, agent.ended = None, True

    def _give_up_on_server(self) -> None:
        """Go on without a server that does not say that agents have ended: it is stopped or stuck."""
        assert self._killing_since is not None
        if clock.monotonic() - self._killing_since < _SERVER_PATIENCE:
            return
        for agent in self.roster.agents:
            if not agent.ended and agent.status_fd is not None:
                self._server.lose()
                self._forget_status(agent)

    def _give_up_on_inline_agent(self) -> None:
        """Go on without an inline agent that does not end: its thread is stuck."""
        assert self._killing_since is not None
        if self._inline is not None and clock.monotonic() - self._killing_since >= PATIENCE:
            self._inline.end(0)
            for agent in self.roster.agents:
                agent.ended = agent.ended or agent.status_fd is None

    def _clean_up(self) -> None:
        if self._inline is not None:
            self._inline.end(0 if self._inline.given_up else PATIENCE)
        self._reception.settle()
        for peer in self._peers:
            self._hear(peer)
        if self._tails is not None:
            self._tails.follow(self.roster.ranks(), last=True)
        self._reception.close()
        if self._store is not None:
            self._store.close()
        if self._host_status is not None:
            self._end_store_host(self._host_status)
        for agent in self.roster.agents:
            if agent.status_fd is not None:
                os.close(agent.status_fd)
        own = self.roster.by_pid()
        if self._inline is not None and self._inline.given_up:
            for pid in own:
                with contextlib.suppress(ChildProcessError):  # forked by the server
                    os.waitpid(pid, os.WNOHANG)
        # A process that its rank has named already is not told twice.
        named = {line.partition(" (")[0] for line in self.roster.leftovers}
        self.roster.leftovers += [line for line in sweep(self._server, own) if line.partition(" (")[0] not in named]
        self._server.known.difference_update(own)
        for peer in self._peers:
            peer.close()
        self.roster.release()
        self._selector.close()
        for semaphore in glob.glob(f"/dev/shm/sem.{self.name}-*"):
            with contextlib.suppress(FileNotFoundError):  # the resource tracker may be quicker
                os.unlink(semaphore)

    def _end_store_host(self, status: int) -> None:
        if kernel.readable(status, _SERVER_PATIENCE) and len(data := os.read(status, 8)) == 8:
            handle = kernel.ProcessHandle(read_status(data))
            handle.send(signal.SIGKILL)
            handle.close()
            kernel.readable(status, _SERVER_PATIENCE)  # until the server has reaped it
        os.close(status)

    def _make_record(self) -> LaunchRecord:
        directory = self.plan.directory
        return LaunchRecord(
            name=self.plan.name,
            work=self.plan.work,
            timeout=self.plan.timeout,
            timed_out=self._timed_out,
            started_ns=self._started_ns,
            ended_ns=clock.monotonic_ns(),
            nodes=int(self.plan.config["min_nodes"]),
            nproc=self.plan.nproc,
            worlds=tuple(self.roster.worlds),
            ranks=self.roster.rank_records(directory),
            agents=self.roster.agent_records(),
            events=tuple(self.roster.events),
            leftovers=tuple(self.roster.leftovers),
            warnings=tuple(self.roster.warnings),
            directory=directory,
            server_lost=self._server_lost,
            server_words=self._server.last_words()
            if any(agent.finished is None for agent in self.roster.agents)
            else "",
        )


def port_of(store: socket.socket | None) -> int | None:
    """Return the port of a socket, or ``None`` for no socket."""
    return None if store is None else int(store.getsockname()[1])
