"""One value for all processes of a run: the first that wants it makes it and keeps it, the others read it.

Who makes a value holds a file lock while it lives; who uses one holds a lock of its own, its lease. The kernel drops
both with the process, so a crash leaves nothing locked. A guard lock orders making, borrowing and ending.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_elastic.pid import own_pid
from pytest_elastic.services.ports import file_lock, try_acquire

if TYPE_CHECKING:
    from filelock import BaseFileLock

PATIENCE: Final = 86_400.0
"""Seconds to wait for another process of the run, which makes the value or still uses it; a crash ends the wait."""

POLL: Final = 0.02
_VALUE: Final = "value"


@dataclass(frozen=True, slots=True)
class Record:
    """What a run knows of a value.

    Attributes:
        good: It was made; else making it failed, and ``data`` says how.
        data: The value, or the failure, pickled.
    """

    good: bool
    data: bytes


class Seat:
    """The place of one value of a run, as one process sees it.

    Args:
        directory: A directory that all processes of the run share; made if it does not exist.
        process: Name of this process in the run.
    """

    def __init__(self, directory: Path, process: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._guard = file_lock(directory / "guard")
        self._owner = file_lock(directory / "owner")
        self._lease = file_lock(directory / f"lease-{process}")
        self._pid = own_pid()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Hold the guard: no other process makes, borrows or ends the value meanwhile."""
        with self._guard.acquire(timeout=PATIENCE, poll_interval=POLL):
            yield

    def take(self) -> Record | None:
        """Borrow the value, or become the one who is to make it (``None``); only under the guard.

        That making it failed is true for the whole run. A value whose maker is dead is none.
        """
        record = self._read()
        if record is not None and not record.good:
            return record
        if not try_acquire(self._owner):
            assert record is not None, "the owner publishes before it lets the guard go"
            self._lease.acquire(timeout=PATIENCE, poll_interval=POLL)
            return record
        self._unpublish()
        return None

    def publish(self, record: Record) -> None:
        """Tell the value, or that it could not be made; only under the guard, by its owner."""
        new = self._directory / f"{_VALUE}.new"
        new.write_bytes(bytes([record.good]) + record.data)
        os.replace(new, self._directory / _VALUE)
        if not record.good:
            self._owner.release()

    def give_back(self) -> None:
        """End the lease."""
        if own_pid() == self._pid:  # a fork shares the lock
            self._lease.release()

    def vacate(self) -> bool:
        """Withdraw the value if no other process uses it; only under the guard, by its owner.

        Returns:
            Whether it is withdrawn: it may be ended now, and :meth:`leave` called.
        """
        if any(_is_held(lock) for lock in self._leases()):
            return False
        self._unpublish()
        return True

    def leave(self) -> None:
        """Let others make the value anew."""
        if own_pid() == self._pid:
            self._owner.release()

    def wait_for_leases(self) -> None:
        """Wait until no lease is held; new ones may come meanwhile. Without the guard."""
        for lock in self._leases():
            with lock.acquire(timeout=PATIENCE, poll_interval=POLL):
                pass

    def _leases(self) -> list[BaseFileLock]:
        return [file_lock(path) for path in sorted(self._directory.glob("lease-*"))]

    def _read(self) -> Record | None:
        try:
            data = (self._directory / _VALUE).read_bytes()
        except FileNotFoundError:
            return None
        return Record(bool(data[0]), data[1:])

    def _unpublish(self) -> None:
        (self._directory / _VALUE).unlink(missing_ok=True)


def _is_held(lock: BaseFileLock) -> bool:
    if not try_acquire(lock):
        return True
    lock.release()
    return False
