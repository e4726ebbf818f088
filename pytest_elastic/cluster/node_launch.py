"""One launch on a machine whose controller follows: its agent and ranks, at the word of the first controller."""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_elastic import clock, kernel, tasks
from pytest_elastic.cluster.key import derive
from pytest_elastic.cluster.messages import (
    AgentBegan,
    AgentEnded,
    EndLaunch,
    KillAll,
    LaunchEnded,
    OfLaunch,
    ProcessEnded,
    SendSignal,
    StartAgent,
    Sync,
    Synced,
    ToLaunch,
    Watch,
)
from pytest_elastic.cluster.mirror import Mirror
from pytest_elastic.controller.environment import rank_environment
from pytest_elastic.controller.measuring import without_coverage
from pytest_elastic.controller.server import PreloadedServer, remove_run_directory
from pytest_elastic.controller.sweeping import sweep
from pytest_elastic.errors import ElasticError
from pytest_elastic.forking import Task, read_status
from pytest_elastic.messages import AgentOrder, RankOrder

if TYPE_CHECKING:
    from pytest_elastic.controller.run import ElasticRun

_TICK: Final = 0.05
"""Seconds between two looks at what ranks have written."""
_SERVER_PATIENCE: Final = 2.0
_SYNC: Final = 2.0


class NodeLaunch:
    """The agent and the ranks of a launch on this machine.

    Args:
        order: What is to be started.
        run: What this session holds.
        key: Key of the run.
        address: Address of this machine.
        tell: Sends something to the first controller.
        has_room: Tells whether not too much of that is on its way.
    """

    def __init__(
        self,
        order: StartAgent,
        run: ElasticRun,
        *,
        key: bytes,
        address: str,
        tell: Callable[[OfLaunch], None],
        has_room: Callable[[], bool],
    ) -> None:
        self._order = order
        self._name: Final = order.launch
        self._run = run
        self._key = key
        self._address = address
        self._tell = tell
        self._has_room = has_room
        self._server: PreloadedServer | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        self._told: deque[ToLaunch] = deque()
        self._status_fd: int | None = None
        self._status = b""
        self._agent: kernel.ProcessHandle | None = None
        self._watched: dict[int, kernel.ProcessHandle] = {}
        self._own: set[int] = set()
        self._killing_since: float | None = None
        self._ended = False
        self._scratch = Path()
        self._mirror: Mirror | None = None
        self.done: Final = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"elastic-{order.launch}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def take(self, message: ToLaunch) -> None:
        """Take a word of the first controller; may be called from any thread."""
        self._told.append(message)
        with contextlib.suppress(OSError):
            os.write(self._wake_w, b"w")

    def abandon(self) -> None:
        """End everything: nobody wants to know any more."""
        self.take(KillAll(launch=self._name))
        self.take(EndLaunch(launch=self._name))

    # --- in the thread of the launch ---

    def _work(self) -> None:
        try:
            self._selector.register(self._wake_r, selectors.EVENT_READ, self._woken)
            self._start_agent()
            while not self._ended:
                for key, _ in self._selector.select(_TICK):
                    key.data()
                while self._told:
                    self._obey(self._told.popleft())
                self._look()
        except BaseException as error:  # noqa: BLE001 (told to the first controller)
            what = f"{type(error).__name__}: {error}"
            began = self._agent is not None
            self._tell(AgentEnded(launch=self._name, server_lost=what if began else "", refused="" if began else what))
        finally:
            self._leave()

    def _start_agent(self) -> None:
        order = self._order
        try:
            if not Path(order.agent.cwd).is_dir():
                raise ElasticError(f"the test's current directory {order.agent.cwd} is not there")
            self._server = self._run.server_for(torch_only=order.torch_only)
            self._scratch = self._run.directory / order.launch
            logs = self._scratch / "logs"
            logs.mkdir(parents=True, mode=0o700)
            agent, ranks = self._orders(logs)
            coverage = Path(ranks.coverage.files).parent if ranks.coverage is not None else None
            self._mirror = Mirror(self._name, logs, coverage, self._tell, self._has_room)
            (self._scratch / "rank.order").write_bytes(pickle.dumps(ranks))
            file = self._scratch / "agent.order"
            file.write_bytes(pickle.dumps(agent))
            task = Task(f"agent-{agent.node}", tasks.run_agent, (str(file),))
            self._status_fd = self._server.fork(task, cwd=agent.cwd, sys_path=agent.sys_path, fds=[])
        except (ElasticError, OSError) as error:
            self._tell(AgentEnded(launch=self._name, refused=str(error)))
            return
        self._selector.register(self._status_fd, selectors.EVENT_READ, self._read_status)

    def _orders(self, logs: Path) -> tuple[AgentOrder, RankOrder]:
        """Complete the orders by what is this machine's own."""
        order, run = self._order, self._run.directory.name
        environ = rank_environment(
            order.extra,
            run=run,
            launch=order.launch,
            nproc=int(order.agent.config["nproc_per_node"]),
            command=False,
            address=self._address,
        )
        for name in order.removed:
            environ.pop(name, None)
        key = derive(self._key, f"launch {order.launch}")
        config = order.agent.config | {"local_addr": self._address}
        agent = replace(
            order.agent,
            directory=str(logs),
            scratch=str(self._scratch),
            key=key,
            state_key=derive(self._key, "state of rendezvous"),
            environ=without_coverage(environ),
            config=config,
        )
        coverage = order.ranks.coverage
        if coverage is not None:
            directory = self._scratch / "coverage"
            directory.mkdir()
            coverage = replace(coverage, files=str(directory / Path(coverage.files).name))
        ranks = replace(
            order.ranks,
            key=key,
            environ=environ,
            clock_shift_ns=order.agent.clock_shift_ns,
            coverage=coverage,
            basetemp="" if self._shares_temporary() else str(self._run.make_temporary_directory()),
        )
        return agent, ranks

    def _shares_temporary(self) -> bool:
        """Tell whether the temporary directory of the test is on a file system of both machines."""
        try:
            return (Path(self._order.temporary) / TOKEN).read_text() == self._order.token
        except OSError:
            return False

    def _read_status(self) -> None:
        assert self._status_fd is not None
        data = os.read(self._status_fd, 16 - len(self._status))
        self._status += data
        if self._agent is None and len(self._status) >= 8:
            pid = read_status(self._status[:8])
            self._agent = kernel.ProcessHandle(pid)
            self._own.add(pid)
            assert self._server is not None
            self._server.known.add(pid)
            self._tell(AgentBegan(launch=self._name, pid=pid))
            if self._killing_since is not None:
                self._agent.send(signal.SIGKILL)
        if len(self._status) == 16 or not data:
            self._agent_ended()

    def _agent_ended(self) -> None:
        assert self._status_fd is not None
        assert self._server is not None
        self._selector.unregister(self._status_fd)
        os.close(self._status_fd)
        self._status_fd = None
        if self._mirror is not None:
            self._mirror.look()
        code = read_status(self._status[8:]) if len(self._status) == 16 else None
        words = self._server.last_words()
        lost = "" if code is not None else f"{self._server.how_it_died()}\n{words}"
        self._tell(AgentEnded(launch=self._name, exitcode=code, server_lost=lost, server_words=words))

    def _obey(self, message: ToLaunch) -> None:
        if isinstance(message, Watch):
            self._watch(message.pid)
        elif isinstance(message, SendSignal):
            self._signal(message)
        elif isinstance(message, KillAll):
            self._killing_since = self._killing_since or clock.monotonic()
            self._kill_all()
        elif isinstance(message, Sync):
            if self._mirror is not None:
                self._mirror.catch_up(_SYNC)
            self._tell(Synced(launch=self._name, number=message.number))
        elif isinstance(message, EndLaunch):
            self._ended = True

    def _watch(self, pid: int) -> None:
        if pid in self._watched:
            return
        handle = self._watched[pid] = kernel.ProcessHandle(pid)
        self._own.add(pid)
        if self._server is not None:
            self._server.known.add(pid)
        if handle.fd is not None:
            self._selector.register(handle.fd, selectors.EVENT_READ, lambda: self._process_ended(handle))
        else:
            self._process_ended(handle)
        if self._killing_since is not None:
            handle.send(signal.SIGKILL)

    def _process_ended(self, handle: kernel.ProcessHandle) -> None:
        if handle.fd is not None:
            self._selector.unregister(handle.fd)
        handle.close()
        if self._mirror is not None:
            self._mirror.look()
        self._tell(ProcessEnded(launch=self._name, pid=handle.pid))

    def _signal(self, message: SendSignal) -> None:
        handle = self._watched.get(message.pid)
        if handle is None and self._agent is not None and self._agent.pid == message.pid:
            handle = self._agent
        if handle is None:
            return
        if message.wakes:
            handle.wake_by(message.signum)
        else:
            handle.send(message.signum)

    def _kill_all(self) -> None:
        for handle in self._watched.values():
            handle.send(signal.SIGKILL)
        if self._agent is not None:
            self._agent.send(signal.SIGKILL)

    def _look(self) -> None:
        if self._mirror is not None:
            self._mirror.look()
        if self._killing_since is None or self._status_fd is None:
            return
        if clock.monotonic() - self._killing_since >= _SERVER_PATIENCE:
            assert self._server is not None
            self._server.lose()  # it does not say that the agent has ended
            self._agent_ended()

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_r, 4096)

    def _leave(self) -> None:
        """End whatever is left, and say what that was."""
        left: list[str] = []
        try:
            self._kill_all()
            for handle in [*self._watched.values(), *([self._agent] if self._agent is not None else [])]:
                handle.wait(_SERVER_PATIENCE)
            if self._server is not None:
                left = sweep(self._server, self._own_processes())
                self._server.known.difference_update(self._own)
                self._server.leave()
            if self._mirror is not None:
                self._mirror.finish()
        finally:
            if self._status_fd is not None:
                os.close(self._status_fd)
            for handle in self._watched.values():
                handle.close()
            if self._agent is not None:
                self._agent.close()
            self._selector.close()
            os.close(self._wake_r)
            os.close(self._wake_w)
            if self._scratch.name:
                remove_run_directory(self._scratch)
            self._tell(LaunchEnded(launch=self._name, leftovers=tuple(left)))
            self.done.set()

    def _own_processes(self) -> dict[int, None]:
        return dict.fromkeys(self._own)


TOKEN: Final = ".elastic-launch"
"""File in the temporary directory of a test by which other machines know that they share it."""
