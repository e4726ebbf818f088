"""torch's own agent, made to notice at once, to wait no longer than it should, and to tell what it sees."""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import MultiprocessContext, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from pytest_elastic import clock
from pytest_elastic.agent.logs import RankLogs
from pytest_elastic.agent.rendezvous import FreshPort
from pytest_elastic.messages import AgentMessage, RankExited, RoundStarted

_MEMBERSHIP_INTERVAL = 0.1
"""Seconds between two looks for nodes that wait to join; torch's own interval."""
_TAKES_TIMEOUT = "timeout" in inspect.signature(LocalElasticAgent._shutdown).parameters
"""Not in torch 2.9."""
_AFTERMATH = 0.2
"""Seconds that workers get to fail by themselves once one has failed, before they are told to end."""


class ObservedAgent(LocalElasticAgent):
    """A ``LocalElasticAgent`` that tells the controller of rounds and of each exit code.

    Args:
        spec: What to run.
        logs: Where workers write.
        start_method: Name of a multiprocessing start method.
        tell: Sends a message to the controller.
        grace: Seconds between SIGTERM and SIGKILL (torch: 30).
        exit_barrier: Seconds to wait for other agents after success (torch: 300).
        node: Index of this agent, in order of start.
        hold: While this file is there, no worker is ended because another one has failed.
        error: Raised instead of running, if given.

    Attributes:
        stopping_ns: ``time.monotonic_ns()`` when it last began to end its workers, or ``None``.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs: RankLogs,
        *,
        start_method: str,
        tell: Callable[[AgentMessage], None],
        grace: float,
        exit_barrier: float,
        node: int,
        hold: Path,
        error: BaseException | None = None,
    ) -> None:
        super().__init__(spec, logs, start_method=start_method, exit_barrier_timeout=exit_barrier)
        self._logs = logs
        self._tell = tell
        self._grace = grace
        self._node = node
        self._hold = hold
        self._error = error
        self.stopping_ns: int | None = None
        self._noted: set[int] = set()
        self._pidfds: dict[int, int] = {}

    @property
    def restarts(self) -> int:
        """How often workers were restarted because some of them failed."""
        return int(self._worker_group.spec.max_restarts - self._remaining_restarts)

    def run(self, role: str = "default") -> RunResult:
        """Run until the workers are done, or raise the error that was asked for."""
        if self._error is not None:
            raise self._error
        result: RunResult = super().run(role)
        return result

    def release(self) -> None:
        """Let go of the agents' store, which has a thread: inside pytest it must not wait for a collection."""
        self._store = None
        self._worker_group.store = None

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._noted = set()
        others = set(multiprocessing.active_children())
        try:
            pids: dict[int, int] = super()._start_workers(worker_group)
        except BaseException:
            # torch forgets those that it has started by then; they would wait for this agent, and it for their end.
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()
            raise
        self._watch_processes()
        handler = worker_group.spec.rdzv_handler
        met = handler.times_ns if isinstance(handler, FreshPort) else (0, 0)
        self._tell(
            RoundStarted(
                node=self._node,
                ranks=self._logs.ranks,
                pids=tuple(pids[local] for local in sorted(pids)),
                times_ns=(*met, clock.monotonic_ns()),
            )
        )
        return pids

    def _watch_processes(self) -> None:
        """Have the end of a spawned worker be seen in its process.

        torch waits for a pipe to close, which a child that the worker forked and left behind keeps open.
        """
        context = self._pcontext
        if not isinstance(context, MultiprocessContext) or context.start_method != "spawn" or context._pc is None:
            return
        if sys.platform == "linux":
            self._pidfds.update({process.pid: os.pidfd_open(process.pid) for process in context._pc.processes})
            ends = {self._pidfds[process.pid]: rank for rank, process in enumerate(context._pc.processes)}
            context._pc.sentinels = ends

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._wait_for_change()
        self._note_exits(stopping_since=None)
        while self._hold.exists():
            # A person debugs a rank: its end, because another one has failed, can wait.
            connection.wait(self._signs(set(self._exitcodes()) | self._returned()), timeout=_MEMBERSHIP_INTERVAL)
            self._note_exits(stopping_since=None)
        silent = self._exited_without_value()
        if silent or any(self._exitcodes().values()):
            self._await_aftermath()
        if silent:
            # torch would wait for their values for ever.
            return RunResult(state=WorkerState.FAILED, failures=silent)
        begin = clock.monotonic()
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state is not WorkerState.HEALTHY:
            # The exit that made torch stop the others was nobody's doing but its own, also where it was seen only now.
            first = min(result.failures.values(), key=lambda failure: failure.timestamp, default=None)
            self._note_exits(stopping_since=begin, unasked=None if first is None else first.local_rank)
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: float = 30) -> None:  # noqa: ARG002
        self.stopping_ns = clock.monotonic_ns()
        begin = clock.monotonic()
        if _TAKES_TIMEOUT:
            super()._shutdown(death_sig, timeout=self._grace)  # type: ignore[arg-type]
        else:
            if self._pcontext is not None:
                # torch calls it with the signal alone, and would wait for 30 s.
                self._pcontext.close = functools.partial(self._pcontext.close, timeout=self._grace)  # type: ignore[method-assign, arg-type]
            super()._shutdown(death_sig)
        self._note_exits(stopping_since=begin)
        self._close_pidfds()

    def _wait_for_change(self) -> None:
        """Wait until a worker has ended or returned, but no longer than membership may go unobserved."""
        if isinstance(self._pcontext, SubprocessContext) and set(self._exitcodes()) - self._noted:
            return
        connection.wait(self._signs(set()), timeout=_MEMBERSHIP_INTERVAL)

    def _signs(self, settled: set[int]) -> list[Any]:
        """Return what becomes ready when a worker that has not settled ends or returns."""
        context = self._pcontext
        signs: list[Any] = []
        if isinstance(context, MultiprocessContext) and context._pc is not None:
            for local_rank, process in enumerate(context._pc.processes):
                # The sentinel of a worker that has ended is always ready.
                if local_rank not in self._noted | settled:
                    signs.append(self._pidfds.get(process.pid, process.sentinel))
                if local_rank not in settled and local_rank not in context._return_values:
                    signs.append(context._ret_vals[local_rank]._reader)  # type: ignore[attr-defined]
        elif isinstance(context, SubprocessContext) and sys.platform == "linux":
            for local_rank, handler in context.subprocess_handlers.items():
                if handler.proc.poll() is None and local_rank not in settled:
                    if handler.proc.pid not in self._pidfds:
                        self._pidfds[handler.proc.pid] = os.pidfd_open(handler.proc.pid)
                    signs.append(self._pidfds[handler.proc.pid])
        return signs

    def _await_aftermath(self) -> None:
        """Let a failure reach the other workers: what they say of their own tells more than that they were ended."""
        deadline = clock.monotonic() + _AFTERMATH
        while (left := deadline - clock.monotonic()) > 0:
            settled = set(self._exitcodes()) | self._returned()
            if len(settled) == len(self._worker_group.workers):
                break
            connection.wait(self._signs(settled), timeout=left)
            self._note_exits(stopping_since=None)

    def _returned(self) -> set[int]:
        """Return the local ranks whose function has returned: they wait for the others before they end."""
        context = self._pcontext
        if not isinstance(context, MultiprocessContext):
            return set()
        return {
            rank for rank, queue in context._ret_vals.items() if rank in context._return_values or not queue.empty()
        }

    def _note_exits(self, *, stopping_since: float | None, unasked: int | None = None) -> None:
        """Tell of workers that have ended.

        Args:
            stopping_since: When this agent began to stop its workers, by ``time.monotonic()``; ``None`` if it has not.
            unasked: Local rank of a worker that had ended before that.
        """
        now = clock.monotonic_ns()
        # torch sends SIGTERM at once and SIGKILL after the grace time: one that comes earlier is not the agent's.
        forced = stopping_since is not None and clock.monotonic() - stopping_since >= self._grace
        for local_rank, exitcode in self._exitcodes().items():
            if local_rank not in self._noted:
                self._noted.add(local_rank)
                self._tell(
                    RankExited(
                        id=self._logs.ranks[local_rank],
                        exitcode=exitcode,
                        time_ns=now,
                        stopped=stopping_since is not None and local_rank != unasked,
                        forced=forced and local_rank != unasked,
                    )
                )

    def _exitcodes(self) -> dict[int, int]:
        context = self._pcontext
        if isinstance(context, MultiprocessContext):
            processes: list[Any] = context._pc.processes if context._pc is not None else []
            codes = {local_rank: process.exitcode for local_rank, process in enumerate(processes)}
        elif isinstance(context, SubprocessContext):
            codes = {local_rank: handler.proc.poll() for local_rank, handler in context.subprocess_handlers.items()}
        else:
            codes = {}
        return {local_rank: code for local_rank, code in codes.items() if code is not None}

    def _exited_without_value(self) -> dict[int, ProcessFailure]:
        context = self._pcontext
        if not isinstance(context, MultiprocessContext):
            return {}
        failures = {}
        for local_rank, exitcode in self._exitcodes().items():
            if exitcode == 0 and local_rank not in context._return_values and context._ret_vals[local_rank].empty():
                worker = self._worker_group.workers[local_rank]
                failures[worker.global_rank] = ProcessFailure(
                    local_rank=local_rank,
                    pid=int(worker.id),
                    exitcode=0,
                    error_file=context.error_files[local_rank],
                )
        return failures

    def _close_pidfds(self) -> None:
        for fd in self._pidfds.values():
            os.close(fd)
        self._pidfds = {}
