"""The supervisor of one launch: starts the agents, keeps the deadline, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import glob
import os
import pickle
import selectors
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from pytest_elastic import clock, kernel, tasks
from pytest_elastic.channel import Peer, Reception
from pytest_elastic.cluster.messages import AgentEnded
from pytest_elastic.controller import membership
from pytest_elastic.controller.actions import Actions
from pytest_elastic.controller.clocks import Clocks
from pytest_elastic.controller.debugging import Debugging
from pytest_elastic.controller.hearing import Hearing
from pytest_elastic.controller.inline_agent import PATIENCE, InlineAgent
from pytest_elastic.controller.live import LiveLines, OutputTails
from pytest_elastic.controller.memory_watch import MemoryWatch
from pytest_elastic.controller.nodes import Nodes, RemoteProcess
from pytest_elastic.controller.peers import AgentState, RankState, has_ended_call, kill_together
from pytest_elastic.controller.plan import LaunchPlan, TestPlan
from pytest_elastic.controller.probing import unreachable_endpoint
from pytest_elastic.controller.purpose import Purpose
from pytest_elastic.controller.roster import Roster
from pytest_elastic.controller.server import PreloadedServer
from pytest_elastic.controller.stack_request import StackRequest, wrote_stacks
from pytest_elastic.controller.store_host import StoreHost
from pytest_elastic.controller.sweeping import sweep
from pytest_elastic.controller.terminal import Terminal
from pytest_elastic.errors import ElasticError
from pytest_elastic.forking import Task
from pytest_elastic.messages import AgentHello, Go, NoMoreTests, RankHello, TearDown
from pytest_elastic.report.records import LaunchRecord
from pytest_elastic.spec import takes_late_nodes

_TICK: Final = 0.02
_SERVER_PATIENCE: Final = 1.0
"""Seconds that the server gets to say that a killed agent has ended; it needs a few milliseconds."""


class Supervisor:
    """What runs in the thread behind a launch.

    Args:
        plan: What to run.
        server: The server that forks agents and ranks.
        live: Lines on their way to the terminal.
        terminal: The person's terminal, for debuggers.
        stream: What ranks write goes to the terminal as well as to their logs.

    Attributes:
        roster: Agents and ranks, and what each has told.
        actions: What is to be done in the thread of the supervisor.
        debugging: Who gets the terminal.
        purpose: What is done to agents and ranks on purpose.
        errands: What is to be done in the thread of the test.
        over: Called once nothing is left of the launch.
        changed: Notified when something has happened that somebody waits for.
        awaited: What they wait for; guarded by ``changed``.
        settled: Set when everything is known of a test; agents may still be about to end.
        done: Set at the end.
        broken: Traceback of a preload that failed: no rank was started.
        unsafe: Why ranks cannot be forked from this server: no rank was started.
        error: An error of the supervisor's own.
        record: What is known of the launch once it is over.
        held_open: Somebody may still add nodes.
        started_ns: When it began, or its ranks their test; 0 before.
        timeout: Deadline of that in seconds, or ``None``.
        work_name: What is run.
    """

    def __init__(
        self, plan: LaunchPlan, server: PreloadedServer, live: LiveLines, terminal: Terminal, *, stream: bool
    ) -> None:
        self.plan: Final = plan
        self.name: Final = plan.scratch.name
        self.roster: Final = Roster()
        self.errands: Final[deque[Callable[[], None]]] = deque()
        self.changed: Final = threading.Condition()
        self.awaited: Final[list[Callable[[], bool]]] = []
        self.settled: Final = threading.Event()
        self.done: Final = threading.Event()
        self.over: Callable[[], object] = lambda: None
        self.broken: str | None = None
        self.unsafe: str | None = None
        self.error: BaseException | None = None
        self.record: LaunchRecord | None = None
        self.held_open = False
        self._server = server
        self._tails = OutputTails(plan.directory, live) if stream else None
        self._memory = MemoryWatch() if plan.watches_memory else None
        self._selector = selectors.DefaultSelector()
        self._clocks = Clocks(grace=plan.grace)
        self._reception = Reception(
            str(server.directory / f"{self.name}.sock"),
            plan.key,
            self._selector,
            lambda peer: self._hearing.welcome(peer),
            host=plan.site.address if plan.site.has_others else None,
        )
        self._nodes: Final = Nodes(plan, self._reception.wake)
        self.actions: Final = Actions(self._reception.wake)
        self.debugging: Final = Debugging(
            self.roster,
            self._clocks,
            terminal,
            directory=plan.directory,
            scratch=plan.scratch,
            errand=self.errands.append,
            do=self.actions.do,
        )
        self._hearing = Hearing(
            plan,
            self.roster,
            self._clocks,
            live,
            self._selector,
            self,
            self.debugging,
            errand=self.errands.append,
            wake=self._reception.wake,
        )
        self._store = StoreHost(plan)
        self.purpose: Final = Purpose(plan, self.roster, self._selector, self._add_agent)
        self._split: tuple[str, ...] = ()
        self._inline: InlineAgent | None = None
        self.timeout = plan.timeout
        self._timeout_by = ""
        self._after_call = (self.timeout, self._timeout_by)
        self._timed_out = False
        self._unreachable = ""
        self._stacks: StackRequest | None = None
        self._last_looks: list[tuple[StackRequest, list[RankState]]] = []
        self._killing_since: float | None = None
        self._cancelled = threading.Event()
        self._cut_short = False
        self._wants_stacks = False
        self._server_lost: str | None = None
        self._words_elsewhere = ""
        self.started_ns = 0
        self._test: bytes | None = None
        self.work_name = plan.name

    def cancel(self, *, stacks: bool) -> None:
        """Have the launch end; may be called from any thread.

        Args:
            stacks: Have ranks write where they are before they are killed.
        """
        self._wants_stacks = stacks
        self._cancelled.set()
        self._reception.wake()

    def let_end(self, timeout: float | None) -> None:
        """Let lost nodes end the launch from now on, and have its deadline come in some seconds."""
        self.held_open = False
        if timeout is not None:
            self.shorten(timeout, "")

    def waiting_ranks(self) -> set[int]:
        """Return the ranks of the last world that wait in a call that all of them make; may be called anywhere."""
        return self._hearing.waiting(self.roster.worlds[-1]) if self.roster.worlds else set()

    @property
    def stood_for(self) -> float:
        """Seconds for which the clocks have stood still."""
        return self._clocks.stood_for

    def shorten(self, timeout: float, by: str) -> None:
        """Have the deadline come in some seconds, unless it comes before.

        Args:
            timeout: The seconds.
            by: Who wants that, where it is another plugin.
        """
        if self._clocks.shorten(timeout):
            self.timeout, self._timeout_by = timeout, by

    def limit_call(self, timeout: float, by: str) -> None:
        """Do as :meth:`shorten`, until all ranks have ended their call."""
        before = self.timeout, self._timeout_by
        if self._clocks.limit_call(timeout):
            self._after_call = before
            self.timeout, self._timeout_by = timeout, by

    def _look_at_call(self) -> None:
        if not self._clocks.limits_call:
            return
        ranks = self.roster.last_world()
        if not ranks or len(ranks) < ranks[0].id.world_size:
            return
        again = self.plan.may_form_again
        # What has failed is tried again, with no new limit of the call: this one is for all attempts.
        if again and any(rank.bad() or rank.over() for rank in ranks):
            return
        if all(rank.over() or has_ended_call(rank.reports) for rank in ranks):
            self._clocks.call_is_over()
            self.timeout, self._timeout_by = self._after_call

    def start_clocks(self) -> None:
        """Count the deadline from now on."""
        self._clocks.start(self.plan.timeout)

    def _notify(self) -> None:
        """Wake those who wait for something that has happened: to wake others would only take turns with them."""
        with self.changed:
            if self.errands or any(_has_come(reached) for reached in self.awaited):
                self.changed.notify_all()

    # --- for ranks that run tests ---

    def begin_test(self, test: TestPlan) -> None:
        """Have the ranks run a test; those that are still to come as well."""
        self.started_ns = clock.monotonic_ns()
        self._test = pickle.dumps(test.order)
        self.work_name = test.name
        self.roster.begin_test(self.plan.directory)
        self._hearing.begin(test.nodeid, test.fixtures)
        if test.order.kept == 0:
            self._hearing.no_more_tests()
        self.timeout, self._timeout_by = test.timeout, test.timeout_by
        self._clocks.start(test.timeout)
        self._tell_ranks(self._test)

    def begin_another_test(self, test: TestPlan) -> None:
        """Have ranks that wait for a test run one.

        Raises:
            ElasticError: One of them is gone, or their agent is.
        """
        gone = any(rank.over() for rank in self.roster.last_world()) or any(
            not agent.runs() for agent in self.roster.agents
        )
        if gone or self._killing_since is not None:
            raise ElasticError("a rank that waited for a test is gone")
        self.begin_test(test)

    def rest(self) -> LaunchRecord:
        """Have the ranks wait for another test, without a deadline; return what they did in the last one."""
        self._clocks.start(None)
        self.sync()
        return self.make_record(goes_on=True)

    def sync(self) -> None:
        """Wait until what ranks on other machines have written is here."""
        self._nodes.sync(self)

    def no_more_tests(self, timeout: float | None) -> None:
        """Have ranks that wait for a test end.

        Args:
            timeout: Deadline in seconds, or ``None``.
        """
        self._hearing.no_more_tests()
        self.resume(NoMoreTests(), timeout)

    def resume(self, order: TearDown | NoMoreTests, timeout: float | None) -> None:
        """Have ranks that wait for a test do something else.

        Args:
            order: What.
            timeout: Deadline in seconds, or ``None``.
        """
        for rank in self.roster.ranks():
            rank.finished = None
        self.work_name = "the teardown of ranks that are kept"
        self.started_ns = clock.monotonic_ns()
        self.timeout, self._timeout_by = timeout, ""
        self._clocks.start(timeout)
        self._tell_ranks(pickle.dumps(order))

    def _part(self) -> None:
        """Have ranks that are done with their test end: others are not, and may wait for them in a collective.

        They would wait for ever: ranks that are kept have not left their group. The others end when they are done.
        """
        self._hearing.no_more_tests()
        self._tell_ranks(pickle.dumps(NoMoreTests()))

    def _tell_ranks(self, frame: bytes) -> None:
        for rank in self.roster.ranks():
            if rank.peer is not None:
                self._hearing.tell(rank.peer, frame)

    # --- from start to end ---

    def run(self) -> None:
        """Run the launch from its start to its end, in a thread of its own."""
        self.started_ns = self.started_ns or clock.monotonic_ns()
        try:
            self._start_agents()
            while not self.roster.over():
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._nodes.look(self)
                if self._inline is not None:
                    self._look_at_inline_agent(self._inline)
                self.debugging.look()
                self._look_at_call()
                self._look_at_clocks()
                self._hearing.deliver()
                self.purpose.look(ending=self._killing_since is not None)
                self.actions.perform()
                if self._tails is not None:
                    self._tails.follow(self.roster.ranks())
                if self._memory is not None:
                    self._memory.look(self.roster.ranks())
                if not self.settled.is_set() and self._has_settled():
                    self._settle()
                self._notify()
        except BaseException as error:  # noqa: BLE001 (raised in the thread of the test)
            self.error = error
            self._kill_all()
        finally:
            try:
                self._clean_up()
                if not self.settled.is_set():
                    self.record = self.make_record()
            except BaseException as error:  # noqa: BLE001
                self.error = self.error or error
            try:
                self.over()
            finally:
                self.done.set()
                with self.changed:
                    self.changed.notify_all()
                self.actions.close()

    def _has_settled(self) -> bool:
        """Tell whether everything is known of a test: its ranks have ended, and each agent has said it is well."""
        ends = [agent.finished for agent in self.roster.agents]
        # What is on other machines is known when all is over.
        if self.plan.work != "test" or self._nodes or any(end is None or end.state != "SUCCEEDED" for end in ends):
            return False
        return not any(rank.alive() for rank in self.roster.ranks())

    def _settle(self) -> None:
        """Make the record: what is to come is the end of the agents' processes."""
        self._sweep({pid: each for pid, each in self.roster.by_pid().items() if isinstance(each, RankState)})
        self.record = self.make_record()
        self.settled.set()

    def _sweep(self, own: dict[int, RankState | AgentState]) -> None:
        # A process that its rank has named already is not told twice.
        named = {line.partition(" (")[0] for line in self.roster.leftovers}
        self.roster.leftovers += [line for line in sweep(self._server, own) if line.partition(" (")[0] not in named]

    def _start_agents(self) -> None:
        plan = self.plan
        (plan.scratch / "rank.order").write_bytes(pickle.dumps(plan.rank_order(self._reception.address)))
        try:
            self._store.open(self._fork)
            for _ in range(plan.agents):
                self._start_agent()
            self._store.handed_over()
        except OSError as error:
            self._lose_server(error)

    def _lose_server(self, error: OSError) -> None:
        self._server_lost = f"{self._server.how_it_died()} ({error})\n{self._server.last_words()}"
        for agent in self.roster.agents:
            agent.ended = agent.ended or agent.status_fd is None
        self._kill_all()

    def _add_agent(self) -> AgentState:
        """Start one more agent. Where that is not possible it has ended already.

        Raises:
            ElasticError: The launch is at its end.
        """
        if self._killing_since is not None:
            raise ElasticError("the launch is at its end: no agent can be added")
        try:
            return self._start_agent()
        except OSError as error:
            self._lose_server(error)
            return self.roster.agents[-1]

    def _start_agent(self) -> AgentState:
        node = len(self.roster.agents)
        remote = self._nodes.remote(node)
        fds = self._store.fds_for(node)
        address = self._reception.address_for(others=remote is not None)
        order = self.plan.agent_order(node, address, store_port=self._store.port, store_fd=0 if fds else None)
        if remote is not None:
            site = self.plan.site
            agent = AgentState(
                order=order,
                host=site.host_of(node),
                elsewhere=True,
                controller=site.ranks[node] if site.ranks else node,
            )
            self.roster.agents.append(agent)
            remote.start(order, self.plan.rank_order(address), torch_only=self._server.torch_only)
            return agent
        file = self.plan.scratch / f"agent-{order.node}.order"
        file.write_bytes(pickle.dumps(order))
        agent = AgentState(order=order, host=self.plan.site.host_of(node))
        self.roster.agents.append(agent)
        what, name = tasks.run_agent, f"agent-{order.node}"
        if self.plan.inline:
            store_fd = fds[0] if fds else None
            self._inline = InlineAgent(order, self._server.address, store_fd, self._reception.wake)
            if self._server.word is not None:
                self.agent_arrived(replace(self._server.word, node=order.node, pid=kernel.own_pid()), None)
                return agent
            what, name, fds = tasks.vouch_for_server, f"voucher-{order.node}", []
        agent.status_fd = self._fork(name, what, (str(file),), fds)
        self._selector.register(agent.status_fd, selectors.EVENT_READ, lambda: self._agent_status(agent))
        return agent

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
            self._hearing.hear(agent.peer)
        if agent.exitcode is None:
            # Only the server's end closes this before it has told one.
            self._server_lost = f"{self._server.how_it_died()}\n{self._server.last_words()}"
        self._note_agent_end(agent)

    def _note_agent_end(self, agent: AgentState) -> None:
        # Its ranks are the server's children, not its own: they do not end with it.
        kill_together(self.roster.of_node(agent.order.node))
        if not agent.note_end() and (agent.finished is None or agent.finished.state == "FAILED"):
            self._clocks.agent_failed(alone=len(self.roster.agents) == 1)

    def agent_arrived(self, hello: AgentHello, peer: Peer | None) -> None:
        """Let an agent start, unless the server behind it is not fit."""
        agent = self.roster.agents[hello.node]
        agent.hello, agent.peer, agent.hello_ns = hello, peer, clock.monotonic_ns()
        if self._nodes.remote(hello.node) is None:
            self._server.word = hello
        self.broken = self.broken or hello.broken
        if self.plan.needs_safe_server:
            self.unsafe = self.unsafe or hello.unsafe
        if self.broken is not None or self.unsafe is not None:
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
        self._hearing.hear_all()
        agent.finished = agent.finished or inline.finished
        kill_together(self.roster.ranks())

    def rank_arrived(self, hello: RankHello, peer: Peer) -> None:
        """Let a rank start, unless its launch or its agent is at its end."""
        rank = self.roster.rank(hello.id)
        rank.hello_ns = clock.monotonic_ns()
        rank.peer = peer
        rank.writes_stacks = hello.writes_stacks
        self.hold(rank, hello.pid)
        others = membership.rivals(self.roster, self.plan, hello.id)
        if others and not self._split:
            self._split = (others[0].id.world, hello.id.world)
            self._kill_all()
        if self._killing_since is not None or self.roster.agents[hello.id.node].ended:
            rank.kill()
        else:
            peer.send(Go())
            if self._test is not None:
                self._hearing.tell(peer, self._test)

    def hold(self, rank: RankState, pid: int) -> None:
        """Take hold of a rank's process, and be told of its end."""
        remote = self._nodes.remote(rank.id.node)
        if not rank.hold(pid, kernel.ProcessHandle if remote is None else remote.process):
            return
        if remote is not None:
            if self._killing_since is not None:
                rank.kill()
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
            self._hearing.hear(rank.peer)
        self._hearing.gone(rank.id)

    # --- what is heard of other machines ---

    def agent_began(self, node: int, process: RemoteProcess) -> None:
        """Take hold of an agent on another machine."""
        agent = self.roster.agents[node]
        agent.handle = process
        if self._killing_since is not None:
            agent.kill()

    def agent_peer(self, node: int) -> Peer | None:
        """Return the connection of an agent."""
        return self.roster.agents[node].peer

    def rank_peer(self, node: int, pid: int) -> Peer | None:
        """Return the connection of a rank."""
        rank = self.roster.of_process(node, pid)
        return None if rank is None else rank.peer

    def agent_ended(self, node: int, end: AgentEnded) -> None:
        """Take note that an agent on another machine has ended."""
        agent = self.roster.agents[node]
        if agent.peer is not None:
            self._hearing.hear(agent.peer)
        agent.ended, agent.exitcode = True, end.exitcode
        if end.refused and self._killing_since is None:
            raise ElasticError(f"no agent could be started on node {node} ({agent.host}): {end.refused}")
        if end.server_lost:
            self._server_lost = f"on {agent.host}: {end.server_lost}"
        if end.server_words and agent.finished is None:
            self._words_elsewhere = end.server_words
        self._note_agent_end(agent)

    def rank_ended(self, node: int, pid: int) -> None:
        """Take note that a rank on another machine has ended."""
        rank = self.roster.of_process(node, pid)
        if rank is not None:
            self._rank_ended(rank)

    def node_lost(self, node: int, reason: str) -> None:
        """Take note that nothing more is to come from another machine: its agent and ranks count as gone."""
        agent = self.roster.agents[node]
        for rank in self.roster.of_node(node):
            if rank.peer is not None:
                self._hearing.hear(rank.peer)
            if rank.died_with_server():
                rank.exited = None
        ranks = [rank for rank in self.roster.of_node(node) if not rank.over() or rank.exited is None]
        for rank in ranks:
            rank.closed_ns = rank.closed_ns or clock.monotonic_ns()
            rank.killed = rank.killed or rank.finished is None
            self._hearing.gone(rank.id)
        if not agent.ended:
            agent.ended = True
            agent.cut = reason
            agent.lost_ns = agent.lost_ns or clock.monotonic_ns()

    def _patience(self) -> float | None:
        if self._stacks is not None or self._last_looks or self._tails is not None or self.purpose.polls:
            return _TICK
        times = [
            0.1 if self._killing_since is not None else None,
            self._clocks.patience(),
            self._nodes.patience(),
            self.debugging.patience(),
            self.purpose.faults.patience(),
            self._memory.patience() if self._memory is not None else None,
        ]
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _look_at_clocks(self) -> None:
        if self._cancelled.is_set() and self._killing_since is None:
            self._cut_short = True
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
            if not self.roster.worlds:
                self._unreachable = unreachable_endpoint(self.plan.config)
            if not self.roster.admitted():
                self._server.ask_for_stacks()
            self._stacks = StackRequest(self.roster.ranks(), self.plan.directory)
        for world in self._clocks.expired_worlds():
            ranks = self.roster.of_world(world)
            # Others were told to end, and wrote where they were then.
            silent = [rank for rank in ranks if not wrote_stacks(rank, self.plan.directory)]
            self._last_looks.append((StackRequest(silent, self.plan.directory), ranks))
        for request, ranks in [look for look in self._last_looks if look[0].answered()]:
            self._last_looks.remove((request, ranks))
            kill_together(ranks)
        may_come = self.held_open or self.purpose.faults.adds_nodes()
        replaceable = may_come and takes_late_nodes(self.plan.config["rdzv_backend"])
        missed = not replaceable and membership.misses_a_node(self.roster, self.plan)
        self._clocks.note_bereft(missed or membership.waits_in_vain(self.roster))
        if self._clocks.end_has_come():
            self._kill_after_last_look()
        elif self._clocks.ends and self._nothing_is_to_come():
            self._kill_all()
        ranks = self.roster.last_world()
        done = [rank for rank in ranks if rank.finished is not None]
        self._clocks.note_apart(self._hearing.keeps_ranks and 0 < len(done) < len(ranks))
        if self._clocks.apart_for_long():
            self._part()

    def _kill_after_last_look(self) -> None:
        """Kill everything, when ranks that nobody has told to end so far have said where they are."""
        ranks = self.roster.ranks()
        silent = [rank for rank in ranks if rank.alive() and not wrote_stacks(rank, self.plan.directory)]
        if silent and self._killing_since is None:
            self._stacks = self._stacks or StackRequest(silent, self.plan.directory)
        else:
            self._kill_all()

    def _nothing_is_to_come(self) -> bool:
        """Tell whether all that agents do is to wait for one that has failed: every rank has ended, for good."""
        ranks = self.roster.last_world()
        formed = bool(ranks) and len(ranks) == ranks[0].id.world_size
        return formed and not self.plan.may_form_again and all(rank.exited is not None for rank in ranks)

    def _kill_all(self) -> None:
        self._killing_since = self._killing_since or clock.monotonic()
        kill_together(self.roster.ranks())
        self._nodes.kill()
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
        self.debugging.close()
        self._reception.settle()
        self._hearing.hear_all()
        left, notes = self._nodes.end(self)
        self.roster.leftovers += left
        self.roster.notes += notes
        if self._tails is not None:
            self._tails.follow(self.roster.ranks(), last=True)
        self._reception.close()
        self._store.close()
        for agent in self.roster.agents:
            if agent.status_fd is not None:
                os.close(agent.status_fd)
        own = self.roster.by_pid()
        if self._inline is not None and self._inline.given_up:
            for pid in own:
                with contextlib.suppress(ChildProcessError):  # forked by the server
                    os.waitpid(pid, os.WNOHANG)
        self._sweep(own)
        self._server.known.difference_update(own)
        self._hearing.close()
        self.roster.release()
        self.purpose.close()
        self._selector.close()
        for semaphore in glob.glob(f"/dev/shm/sem.{self.name}-*"):
            with contextlib.suppress(OSError):  # the resource tracker may be quicker, and the file somebody else's
                os.unlink(semaphore)

    def make_record(self, *, goes_on: bool = False) -> LaunchRecord:
        """Return what is known by now.

        Args:
            goes_on: The ranks have run a test, and wait for another: all that counts is what they said.
        """
        directory = self.plan.directory
        ranks = self.roster.rank_records(directory)
        if self.plan.work != "command" and any(rank.never_started for rank in ranks):
            # What kept them from it they could write there only.
            said = self._server.last_words().rstrip().rpartition("\n")[2]
            ranks = tuple(replace(rank, server_said=said) if rank.never_started else rank for rank in ranks)
        return LaunchRecord(
            name=self.work_name,
            work=self.plan.work,
            timeout=self.timeout,
            timeout_by=self._timeout_by,
            timed_out=self._timed_out,
            unreachable=self._unreachable,
            started_ns=self.started_ns,
            ended_ns=clock.monotonic_ns(),
            nodes=int(self.plan.config["min_nodes"]),
            nproc=self.plan.nproc,
            worlds=tuple(self.roster.worlds),
            ranks=ranks,
            agents=() if goes_on else self.roster.agent_records(),
            events=tuple(self.roster.events),
            leftovers=tuple(self.roster.leftovers),
            warnings=tuple(self.roster.warnings),
            notes=tuple(self.roster.notes),
            waits=self._hearing.waits(),
            rounds=tuple(self.roster.rounds),
            directory=directory,
            server_lost=self._server_lost,
            server_words=self._words_elsewhere or self._server.last_words()
            if not goes_on and any(agent.finished is None for agent in self.roster.agents)
            else "",
            cut_short=self._cut_short,
            split=self._split,
            faults_left=self.purpose.faults.not_happened(),
            goes_on=goes_on,
        )


def _has_come(reached: Callable[[], bool]) -> bool:
    try:
        return reached()
    except BaseException:  # noqa: BLE001 (raised again in the thread of whoever waits)
        return True
