"""Processes that are not our children: who they are, whether they live, and their keeper's record of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_elastic.services import keeper

# How often a state is looked at that nobody announces, in seconds.
POLL = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessId:
    """A process by more than its number, which the kernel gives to another one later.

    Attributes:
        pid: Its process id.
        started: Its start in clock ticks since boot; 0 where the platform does not tell.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Look at a running process.

        Raises:
            ProcessLookupError: There is none.
        """
        return cls(pid=pid, started=keeper.started_at(pid))

    @property
    def alive(self) -> bool:
        """Whether it runs; one that has ended and was not waited for does not."""
        return keeper.is_alive(self.pid, self.started)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal, to its whole process group if asked; nothing where it is gone."""
        with suppress(ProcessLookupError):
            if self.alive:
                (os.killpg if group else os.kill)(self.pid, number)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeeperState:
    """What a keeper wrote of itself and its etcd.

    Attributes:
        keeper: The keeper.
        run: The how many-th etcd on this data this is, from 1 on.
        etcd: That etcd.
        exitcode: How it ended, negative for a signal; None while it runs.
    """

    keeper: ProcessId
    run: int
    etcd: ProcessId
    exitcode: int | None

    @property
    def ended(self) -> bool:
        """Whether etcd is gone; the kernel kills it with its keeper, which then cannot note it."""
        return self.exitcode is not None or not (self.keeper.alive or self.etcd.alive)

    @classmethod
    def read(cls, home: Path) -> KeeperState | None:
        """Read the state in an etcd's home; None where there is none yet or no longer."""
        try:
            text = (home / keeper.STATE).read_text()
        except OSError:
            return None
        *numbers, end = text.split()
        keeper_pid, keeper_started, run, pid, started = map(int, numbers)
        return cls(
            keeper=ProcessId(pid=keeper_pid, started=keeper_started),
            run=run,
            etcd=ProcessId(pid=pid, started=started),
            exitcode=None if end == keeper.RUNNING else int(end),
        )


def wait_until(holds: Callable[[], bool], *, timeout: float) -> bool:
    """Wait until something holds; False if it did not within so many seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
