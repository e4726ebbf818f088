"""Slots that launches take, so that they do not get in each other's way: CPUs of a run, accelerators of a machine.

A slot is a file lock in a directory that those processes share which are to share the slots; the kernel drops the locks
of a process that is killed. Who has to wait draws a ticket, which is a file lock too:

* All or nothing: nobody holds a slot while it waits for another, so there is no deadlock.
* First come, first served, among those that want the same slots: a launch that needs many is not overtaken for ever by
  those that need few.

Every lock but the guard is opened, and its file removed, under the guard of its directory only: a file that is removed
while another process opens it would let two hold "the same" lock.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_elastic import clock, kernel
from pytest_elastic.errors import ElasticError
from pytest_elastic.pid import own_pid
from pytest_elastic.services.ports import drop, file_lock, try_acquire
from pytest_elastic.services.private_directories import make_private

if TYPE_CHECKING:
    from filelock import BaseFileLock

POLL: Final = 0.01
"""Seconds between two looks of who waits. The kernel tells nobody that a lock is free but those that block in it."""
_GUARD_TIMEOUT: Final = 30.0
_WANTED: Final = ".wants"
"""Ending of the file beside a ticket that says whose it is, and what is wanted."""


class SlotError(ElasticError):
    """Slots cannot be taken. Its text is one line."""


class Pool:
    """The slots of one directory, and those of them that this process has.

    Args:
        directory: Shared by all that share the slots, or what finds it when it is needed; made if it does not exist.

    Attributes:
        own: Name to lock of the slots that this process has; only under the guard.
        users: Name to the number of this process's leases of it; only under the guard.
    """

    def __init__(self, directory: Path | Callable[[], Path]) -> None:
        self._place = directory
        self.own: Final[dict[str, BaseFileLock]] = {}
        self.users: Final[dict[str, int]] = {}

    @cached_property
    def _directory(self) -> Path:
        return self._place if isinstance(self._place, Path) else self._place()

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
            raise SlotError(
                f"cannot take slots: no file lock in {str(self._directory)!r}: {error}; set TMPDIR to a directory that "
                "you alone can write to"
            ) from None
        try:
            yield
        finally:
            guard.release()

    def draw_ticket(self, names: Sequence[str]) -> BaseFileLock:
        """Stand in the queue for some slots; only under the guard."""
        numbers = [int(path.stem.partition("-")[2]) for path in self._directory.glob("ticket-*")]
        path = self._directory / f"ticket-{max(numbers, default=0) + 1:012}"
        path.with_suffix(_WANTED).write_text(json.dumps({"pid": own_pid(), "names": list(names)}))
        ticket = file_lock(path)
        ticket.acquire(blocking=False)
        return ticket

    def tear_up(self, ticket: BaseFileLock) -> None:
        """Leave the queue; only under the guard."""
        Path(ticket.lock_file).with_suffix(_WANTED).unlink(missing_ok=True)
        drop(ticket)

    def ahead_of(self, ticket: BaseFileLock | None, names: Sequence[str]) -> int:
        """Return how many stand in the queue for any of some slots, before a ticket or at all; only under the guard.

        The tickets of the dead are removed. A process that is stopped does not hold up others.
        """
        ahead = 0
        for path in sorted(path for path in self._directory.glob("ticket-*") if not path.suffix):
            if ticket is not None and path.name >= Path(ticket.lock_file).name:
                break
            other = file_lock(path)
            if try_acquire(other):
                self.tear_up(other)
                continue
            wanted = json.loads(path.with_suffix(_WANTED).read_text())
            ahead += not set(names).isdisjoint(wanted["names"]) and not kernel.is_stopped(wanted["pid"])
        return ahead

    def lock_free(self, names: Sequence[str], number: int) -> list[str]:
        """Lock those of some slots that are free, in their order, up to a number; only under the guard."""
        locked: list[str] = []
        for name in names:
            if len(locked) == number:
                break
            lock = file_lock(self._directory / ("slot-" + re.sub(r"[^\w.-]", "_", name)))
            if name not in self.own and try_acquire(lock):
                self.own[name] = lock
                locked.append(name)
        return locked

    def use(self, names: Sequence[str]) -> None:
        """Take note of a lease of slots that this process has; only under the guard."""
        for name in names:
            self.users[name] = self.users.get(name, 0) + 1

    def leave(self, names: Sequence[str]) -> None:
        """Take note that a lease is over, and unlock what no other one has; only under the guard."""
        for name in names:
            self.users[name] -= 1
        self.unlock([name for name in names if not self.users[name]])

    def unlock(self, names: Sequence[str]) -> None:
        """Give slots back; only under the guard."""
        for name in names:
            self.users.pop(name, None)
            drop(self.own.pop(name))


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
    """Slots that are taken until they are released; several leases of a process may have the same.

    Attributes:
        names: Their names.
        idle: Nobody works with them now; they may have to be given back.

    Args:
        pool: Their pool.
        names: Their names.
    """

    def __init__(self, pool: Pool, names: Sequence[str]) -> None:
        self.pool: Final = pool
        self.names: Final = tuple(names)
        self.idle = False
        self.held = True
        self._pid = own_pid()
        self._lock = threading.Lock()

    def release(self) -> None:
        """Give them back. To do so again, or in a fork, does nothing."""
        with self._lock:
            if self.held and own_pid() == self._pid:
                self.held = False
                if self.names:
                    with self.pool.guarded():
                        self.pool.leave(self.names)


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


class _Queued:
    """The tickets of one launch, a place in the queue of each pool whose slots it waits for."""

    def __init__(self) -> None:
        self.tickets: Final[dict[Want, BaseFileLock]] = {}

    def draw(self, wants: Sequence[Want]) -> None:
        """Stand in the queues for some wants; under the guards of their pools."""
        for want in wants:
            if want not in self.tickets:
                self.tickets[want] = want.pool.draw_ticket(want.names)

    def leave(self) -> None:
        """Leave all queues."""
        for want, ticket in self.tickets.items():
            with contextlib.suppress(SlotError), want.pool.guarded():  # else the kernel does with this process
                want.pool.tear_up(ticket)


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
            SlotError: There are not so many; or a process that works with slots already would have to wait for ever.
        """
        began = clock.monotonic()
        wants = tuple(want for want in wants if want.number)
        for want in wants:
            if want.number > len(set(want.names)):
                raise SlotError(f"needs {told([want])}, of which there are {len(set(want.names))}")
        leases = self.take_now(wants)
        if leases is not None:
            return leases
        give_back()
        queued = _Queued()
        try:
            leases, ahead = self._try(wants, queued)
            while leases is None:
                seconds = clock.monotonic() - began
                if timeout is not None and seconds >= timeout and self._is_working():
                    raise SlotError(f"needs {told(wants)}, which others have had for {seconds:.0f} s")
                waits(Waiting(wants=wants, ahead=ahead, seconds=seconds))
                kernel.pause(POLL)
                leases, ahead = self._try(wants, queued)
            return leases
        finally:
            queued.leave()

    def take_now(self, wants: Sequence[Want]) -> list[Lease] | None:
        """Take slots if nobody has to wait for that."""
        return self._try(tuple(want for want in wants if want.number), None)[0]

    def _is_working(self) -> bool:
        with self._lock:
            return self._works()

    def _works(self) -> bool:
        self._leases = [lease for lease in self._leases if lease.held]
        return any(not lease.idle for lease in self._leases)

    def _try(self, wants: tuple[Want, ...], queued: _Queued | None) -> tuple[list[Lease] | None, int]:
        """Take slots if they are to be had; else stand in the queue for those that are not, and for none after them.

        Who waits for a device does not stand in the queue for CPUs: those before it are to be had first.
        """
        taken: list[tuple[Want, list[str], list[str]]] = []
        with self._lock, ExitStack() as guards:
            works = self._works()
            for index, want in enumerate(wants):
                guards.enter_context(want.pool.guarded())
                ticket = queued.tickets.get(want) if queued is not None else None
                ahead = 0 if works else want.pool.ahead_of(ticket, want.names)
                new = want.pool.lock_free(want.names, want.number) if not ahead else []
                shared = self._own(want)[: want.number - len(new)] if works else []
                taken.append((want, new, shared))
                if len(new) + len(shared) < want.number and not (works and want.modest):
                    for pool, locked in [(want.pool, locked) for want, locked, _ in taken]:
                        pool.unlock(locked)
                    if queued is not None and not works:
                        queued.draw(wants[: index + 1])
                    return None, ahead
            leases = [Lease(want.pool, [*new, *shared]) for want, new, shared in taken]
            for lease in leases:
                lease.pool.use(lease.names)
            self._leases += leases
        return leases, 0

    def _own(self, want: Want) -> list[str]:
        """Return those of the slots that this process works with, the least used first."""
        working = [lease for lease in self._leases if lease.pool is want.pool and not lease.idle]
        # What another thread has just released is not there any more; the pool, whose guard is held, knows.
        used = want.pool.users
        names = {name for lease in working for name in lease.names if name in want.names and name in used}
        return sorted(names, key=lambda name: (used[name], want.names.index(name)))


def told(wants: Sequence[Want]) -> str:
    """Say what is wanted: ``4 CPU slots and 2 cuda devices``."""
    return " and ".join(
        f"{want.number} {want.what[:-1] if want.number == 1 else want.what}" for want in wants if want.number
    )
