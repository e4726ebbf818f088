"""Slots that launches take, so that they do not get in each other's way: CPUs of a run, accelerators of a machine.

A slot is a file lock in a directory that those processes share which are to share the slots; the kernel drops the locks
of a process that is killed. Who has to wait draws a ticket, which is a file lock too:

* All or nothing: nobody holds a slot while it waits for another, so there is no deadlock.
* First come, first served: a launch that needs many slots is not overtaken for ever by those that need few.

Every lock but the guard is opened, and its file removed, under the guard of its directory only: a file that is removed
while another process opens it would let two hold "the same" lock.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_elastic import clock, kernel
from pytest_elastic.errors import ElasticError
from pytest_elastic.services.ports import drop, file_lock, make_private, try_acquire

if TYPE_CHECKING:
    from filelock import BaseFileLock

POLL: Final = 0.01
"""Seconds between two looks of who waits. The kernel tells nobody that a lock is free but those that block in it."""
_GUARD_TIMEOUT: Final = 30.0


class SlotError(ElasticError):
    """Slots cannot be taken. Its text is one line."""


class Pool:
    """The slots of one directory.

    Args:
        directory: Shared by all that share the slots; made if it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep everybody else from taking or giving back anything.

        Raises:
            SlotError: There can be no locks here, or another process does not let go of the guard.
        """
        from filelock import Timeout

        try:
            make_private(self._directory)
            guard = file_lock(self._directory / "guard")
            guard.acquire(timeout=_GUARD_TIMEOUT, poll_interval=0.001)
        except Timeout:
            raise SlotError(
                f"cannot take slots: {str(guard.lock_file)!r} was held by another process for {_GUARD_TIMEOUT:g} s; "
                "end that process"
            ) from None
        except (OSError, NotImplementedError) as error:
            raise SlotError(f"cannot take slots: no file lock in {str(self._directory)!r}: {error}") from None
        try:
            yield
        finally:
            guard.release()

    def draw_ticket(self) -> BaseFileLock:
        """Stand in the queue; only under the guard."""
        numbers = [int(path.name.partition("-")[2]) for path in self._directory.glob("ticket-*")]
        ticket = file_lock(self._directory / f"ticket-{max(numbers, default=0) + 1:012}")
        ticket.acquire(blocking=False)
        return ticket

    def ahead_of(self, ticket: BaseFileLock | None) -> int:
        """Return how many stand in the queue before a ticket, or at all; those of the dead are removed.

        Only under the guard.
        """
        ahead = 0
        for path in sorted(self._directory.glob("ticket-*")):
            if ticket is not None and path.name >= Path(ticket.lock_file).name:
                break
            other = file_lock(path)
            if try_acquire(other):
                drop(other)
            else:
                ahead += 1
        return ahead

    def lock_free(self, names: Sequence[str], number: int) -> dict[str, BaseFileLock]:
        """Lock those of some slots that are free, in their order, up to a number; only under the guard."""
        locked: dict[str, BaseFileLock] = {}
        for name in names:
            if len(locked) == number:
                break
            lock = file_lock(self._directory / ("slot-" + re.sub(r"[^\w.-]", "_", name)))
            if try_acquire(lock):
                locked[name] = lock
        return locked


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """Some slots of a pool, any of which will do.

    Attributes:
        pool: The pool.
        names: Names of the slots.
        number: How many of them.
        what: What they are, for those who wait: ``"CPU slots"``.
        modest: A process that works with some already does with fewer.
    """

    pool: Pool
    names: tuple[str, ...]
    number: int
    what: str
    modest: bool = False


class Lease:
    """Slots that are taken until they are released.

    Attributes:
        names: Their names.
        idle: Nobody works with them now; they may have to be given back.

    Args:
        pool: Their pool.
        locks: Name to lock.
        shared: Names of slots that another lease of this process holds.
    """

    def __init__(self, pool: Pool, locks: dict[str, BaseFileLock], shared: Sequence[str] = ()) -> None:
        self.pool: Final = pool
        self.names: Final = (*locks, *shared)
        self.idle = False
        self._locks = locks
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Tell whether it is still taken."""
        return bool(self._locks)

    def release(self) -> None:
        """Give them back. To do so again, or in a fork, does nothing."""
        with self._lock:
            if self._locks and os.getpid() == self._pid:
                with self.pool.guarded():
                    self.unlock()

    def unlock(self) -> None:
        """Give them back under the guard, which the caller holds."""
        while self._locks:
            drop(self._locks.popitem()[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What somebody waits for.

    Attributes:
        wants: The slots.
        ahead: How many stand before it in the queue.
        seconds: For how long.
    """

    wants: tuple[Want, ...]
    ahead: int
    seconds: float


class Slots:
    """The slots that this process takes.

    A process that works with some already, and takes more, does not wait: what waits while it holds something is what
    makes deadlocks. It gets what is free, and shares what it has for the rest.
    """

    def __init__(self) -> None:
        self._leases: list[Lease] = []
        self._lock = threading.Lock()

    def take(
        self,
        wants: Sequence[Want],
        *,
        waits: Callable[[Waiting], object],
        give_back: Callable[[], object],
        timeout: float | None,
    ) -> list[Lease]:
        """Take slots, all or none; wait until it is this process's turn and they are free.

        Args:
            wants: Which. Of several pools in the same order everywhere.
            waits: Called again and again meanwhile; may raise.
            give_back: Releases leases that are idle; called once, before it waits.
            timeout: Seconds after which a process gives up that holds some already; ``None`` for never.

        Raises:
            SlotError: A process that works with slots already would have to wait for ever.
        """
        began = clock.monotonic()
        wants = tuple(want for want in wants if want.number)
        if not wants:
            return []
        leases, ahead = self._try(wants, None)
        if leases is None:
            give_back()
            leases, ahead = self._try(wants, None)
        if leases is not None:
            return leases
        tickets = self._draw(wants)
        try:
            while leases is None:
                seconds = clock.monotonic() - began
                if timeout is not None and seconds >= timeout and self._is_working():
                    raise SlotError(f"needs {told(wants)}, which others have had for {seconds:.0f} s")
                waits(Waiting(wants=wants, ahead=ahead, seconds=seconds))
                kernel.pause(POLL)
                leases, ahead = self._try(wants, tickets)
            return leases
        finally:
            for want, ticket in zip(wants, tickets, strict=True):
                with want.pool.guarded():
                    drop(ticket)

    def take_now(self, wants: Sequence[Want]) -> list[Lease] | None:
        """Take slots if nobody has to wait for that."""
        wants = tuple(want for want in wants if want.number)
        return self._try(wants, None)[0] if wants else []

    def _is_working(self) -> bool:
        with self._lock:
            return self._works()

    def _works(self) -> bool:
        self._leases = [lease for lease in self._leases if lease.held]
        return any(not lease.idle for lease in self._leases)

    def _draw(self, wants: tuple[Want, ...]) -> list[BaseFileLock]:
        with ExitStack() as guards:
            # All at once: who comes first in one queue comes first in every other.
            for want in wants:
                guards.enter_context(want.pool.guarded())
            return [want.pool.draw_ticket() for want in wants]

    def _try(self, wants: tuple[Want, ...], tickets: Sequence[BaseFileLock] | None) -> tuple[list[Lease] | None, int]:
        with self._lock, ExitStack() as guards:
            works = self._works()
            for want in wants:
                guards.enter_context(want.pool.guarded())
            turns = tickets if tickets is not None else [None] * len(wants)
            ahead = max(want.pool.ahead_of(ticket) for want, ticket in zip(wants, turns, strict=True))
            if ahead and not works:
                return None, ahead
            leases: list[Lease] = []
            for want in wants:
                locks = want.pool.lock_free(want.names, want.number)
                own = self._own(want) if works else []
                missing = want.number - len(locks)
                leases.append(Lease(want.pool, locks, own[:missing]))
                if missing > len(own) and not (works and want.modest):
                    for lease in leases:
                        lease.unlock()
                    return None, ahead
            self._leases += leases
        return leases, ahead

    def _own(self, want: Want) -> list[str]:
        names = [name for lease in self._leases if lease.pool is want.pool and not lease.idle for name in lease.names]
        return [name for name in dict.fromkeys(names) if name in want.names]


def told(wants: Sequence[Want]) -> str:
    """Say what is wanted: ``4 CPU slots and 2 cuda devices``."""
    return " and ".join(
        f"{want.number} {want.what[:-1] if want.number == 1 else want.what}" for want in wants if want.number
    )
