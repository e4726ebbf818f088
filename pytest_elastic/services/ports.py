"""Network ports that nobody else gets: no other test or worker of the run, and no other run on this machine.

* They lie outside the kernel's ephemeral range, so no ``bind`` to port 0 and no ``connect`` takes them
  between their hand-out and their use.
* A process reserves them in blocks, each by a file lock that it holds until it releases; blocks, because each
  lock costs a descriptor. The kernel drops the locks of a process that is killed.
* A block stays claimed in the run's own directory when its process has ended: no port comes twice in a run.

A lock file that is removed while another process opens it would let two hold "the same" lock. So files of
locks are opened and removed only under one more lock, the guard, whose file stays.
"""

from __future__ import annotations

import errno
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_elastic.errors import PortError
from pytest_elastic.one_line import one_line
from pytest_elastic.pid import own_pid
from pytest_elastic.services.private_directories import machine_directory, make_private

if TYPE_CHECKING:
    from filelock import BaseFileLock

BLOCK: Final = 32

# torchrun's default ports of its rendezvous and of MASTER_PORT: likely to be named by the code under test.
TORCH_DEFAULTS: Final = frozenset({29400, 29500})

EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")

# Where the kernel's range is unknown or leaves nothing: below the defaults of Linux (32768), macOS (49152).
FALLBACK: Final = range(20000, 32768)

# Below 20000 are the ports of well-known services; they come in only where there is too little above.
FLOORS: Final = (20000, 10000, 1024)
ENOUGH: Final = 1024

GUARD_TIMEOUT: Final = 30.0

_MOST_PORTS: Final = 2**16 - 1


class PortReservations:
    """Ports of one process, reserved on this machine until they are released.

    Args:
        lock_dir: The directory of the locks, one for all runs of this user; made if it does not exist.
        claim_dir: A directory that all processes of this run share; None where this process is the whole run.
        ranges: The ports to choose from; default those outside the kernel's ephemeral range.
    """

    def __init__(self, *, lock_dir: Path, claim_dir: Path | None, ranges: tuple[range, ...] | None = None) -> None:
        self._lock_dir = lock_dir
        self._claim_dir = claim_dir
        self._blocks = blocks_in(ranges or usable_ranges(read_ephemeral()))
        self._held: dict[range, BaseFileLock] = {}
        self._inherited: dict[range, BaseFileLock] = {}
        self._left: list[int] = []
        self._pid = own_pid()
        self._threads = threading.Lock()

    def reserve(self, n: int, *, who: str = "PortReservations.reserve(n)") -> list[int]:
        """Reserve ports.

        Args:
            n: How many, from 1 on.
            who: The name that an error gives to its caller.

        Returns:
            Ports that were free a moment ago and are nobody else's.

        Raises:
            PortError: ``n`` is no such number, there are not enough, or a lock cannot be made.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise PortError(f"{who}: got {one_line(n)}; n is the number of ports, an int from 1 on", wanted=0)
        if n > _MOST_PORTS:
            raise PortError(
                f"{who}: got {one_line(n)}; n is the number of ports, of which there are {_MOST_PORTS}", wanted=n
            )
        if own_pid() != self._pid:
            self._leave_to_parent()
        with self._threads:
            ports: list[int] = []
            before, left = set(self._held), list(self._left)
            try:
                while len(ports) < n:
                    if not self._left:
                        self._left = self._take_block(wanted=n)
                    port = self._left.pop(0)
                    if is_free(port):
                        ports.append(port)
            except PortError:
                # Nobody has seen them: what others could use is given back at once, not when the session ends.
                self._left = left
                self._give_back(set(self._held) - before, wanted=n)
                raise
            return ports

    def listen(self) -> socket.socket:
        """Reserve a port and listen on it.

        Returns:
            A TCP socket bound to 127.0.0.1; closing it is the caller's.

        Raises:
            PortError: None could be had.
        """
        while True:
            [port] = self.reserve(1, who="PortReservations.listen()")
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.bind(("127.0.0.1", port))
                sock.listen()
            except BaseException as error:
                sock.close()
                if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                    continue  # a program that was given this very number has taken it
                raise
            return sock

    def release(self) -> None:
        """Give all ports back to the machine; those of this run stay claimed in its directory."""
        # A forked child shares the locks: what it unlocked would be unlocked for its parent.
        if not self._held or own_pid() != self._pid:
            return
        with self._threads, self._guarded(wanted=0):
            while self._held:
                drop(self._held.popitem()[1])
            self._left = []

    def _give_back(self, blocks: set[range], *, wanted: int) -> None:
        """Unlock blocks of which no port was handed out, and take back this run's claim to them."""
        with self._guarded(wanted=wanted):
            for block in blocks:
                drop(self._held.pop(block))
                if self._claim_dir is not None:
                    (self._claim_dir / str(block.start)).unlink(missing_ok=True)

    def _leave_to_parent(self) -> None:
        """Start anew in a forked child, whose copy of the list would hand out its parent's ports again."""
        self._inherited = self._held  # kept: a lock that is collected unlocks, and for the parent too
        self._held = {}
        self._left = []
        self._pid = own_pid()
        self._threads = threading.Lock()

    def _take_block(self, *, wanted: int) -> list[int]:
        # Not the global generator: with one seed for all workers each would try the same blocks.
        start = random.SystemRandom().randrange(len(self._blocks)) if self._blocks else 0
        with self._guarded(wanted=wanted):
            if not self._held:
                self._sweep()
            for block in self._blocks[start:] + self._blocks[:start]:
                if block not in self._held and self._lock(block):
                    return [port for port in block if port not in TORCH_DEFAULTS]
        raise PortError(
            f"no port left for {wanted} more: the {len(self._blocks)} blocks of {BLOCK} ports outside the"
            f" range in {EPHEMERAL} are taken, by this run or by others; end others, or narrow that range",
            wanted=wanted,
        )

    def _lock(self, block: range) -> bool:
        lock = file_lock(self._lock_dir / f"{block.start}.lock")
        if not try_acquire(lock):
            return False
        if self._claim_dir is not None:
            try:
                self._claim_dir.mkdir(parents=True, exist_ok=True)
                (self._claim_dir / str(block.start)).touch(exist_ok=False)
            except FileExistsError:  # it was of a process of this run that has ended
                drop(lock)
                return False
            except OSError:
                drop(lock)
                raise
        self._held[block] = lock
        return True

    def _sweep(self) -> None:
        """Remove the files that killed runs have left."""
        for path in self._lock_dir.glob("[0-9]*.lock"):
            lock = file_lock(path)
            if try_acquire(lock):
                drop(lock)

    @contextmanager
    def _guarded(self, *, wanted: int) -> Iterator[None]:
        from filelock import Timeout

        try:
            make_private(self._lock_dir)
            with file_lock(self._lock_dir / "guard").acquire(timeout=GUARD_TIMEOUT, poll_interval=0.005):
                yield
        except Timeout as error:
            raise PortError(
                f"cannot reserve ports: {str(error.lock_file)!r} was held by another process for"
                f" {GUARD_TIMEOUT:g} s; end that process",
                wanted=wanted,
            ) from error
        except (OSError, NotImplementedError) as error:
            raise PortError(
                f"cannot reserve ports: no file lock in {str(self._lock_dir)!r}: {error};"
                " set TMPDIR to a directory that you alone can write to",
                wanted=wanted,
            ) from error


def default_lock_dir() -> Path:
    """Name the directory in which all runs of this user on this machine lock their ports."""
    return machine_directory("ports")


def file_lock(path: Path) -> BaseFileLock:
    """Make a lock that any thread may release, since sessions do not end in the thread of a test."""
    from filelock import FileLock

    return FileLock(path, thread_local=False)


def try_acquire(lock: BaseFileLock) -> bool:
    """Acquire a lock if it is free now."""
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def drop(lock: BaseFileLock) -> None:
    """Remove the file of a lock that we hold, then release it; only under the guard."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def read_ephemeral() -> str | None:
    """Read the range from which the kernel serves port 0 and ``connect``; None if it does not tell."""
    try:
        return EPHEMERAL.read_text()
    except OSError:
        return None


def usable_ranges(ephemeral: str | None) -> tuple[range, ...]:
    """Choose the ports outside the ephemeral range, the high ones if they are enough.

    Args:
        ephemeral: First and last port as the kernel writes them, or None if unknown.
    """
    if ephemeral is None:
        return (FALLBACK,)
    first, last = map(int, ephemeral.split())
    for floor in FLOORS:
        ranges = (range(floor, max(floor, first)), range(max(floor, last + 1), 65536))
        if sum(map(len, ranges)) >= ENOUGH:
            return ranges
    return (FALLBACK,)  # nearly everything is ephemeral here; locks and the bind test are what is left


def blocks_in(ranges: tuple[range, ...]) -> list[range]:
    """Cut ranges into blocks; their starts do not depend on the ranges, as other runs must see the same."""
    return [
        range(start, start + BLOCK)
        for ports in ranges
        for start in range(-(-ports.start // BLOCK) * BLOCK, ports.stop - BLOCK + 1, BLOCK)
    ]


def is_free(port: int) -> bool:
    """Tell whether a port can be bound on every address of this machine."""
    return (
        can_bind(socket.AF_INET, "127.0.0.1", port)
        and can_bind(socket.AF_INET, "0.0.0.0", port)
        and can_bind(socket.AF_INET6, "::", port)
    )


def can_bind(family: socket.AddressFamily, host: str, port: int) -> bool:
    """Tell whether a port can be bound on this address; yes where the machine has no such addresses."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
    except OSError as error:
        return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True
