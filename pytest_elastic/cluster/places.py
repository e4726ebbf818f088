"""Where a record is kept: in a file, or in the store of a launcher."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from torch.distributed import Store

_HEAD: Final = b"pytest-elastic record 1\n"
_MODE: Final = 0o600  # reports hold what tests have printed
_PART: Final = 2**20
"""How much of an entry is one value of a store: torch takes no more than 8 MiB."""
_DIGITS: Final = 5


class PlaceError(Exception):
    """A place cannot be opened, read or written; its text is one line that says which, and why."""


class Place(Protocol):
    """Keeps entries, in order, across the end of any process and of its machine.

    Attributes:
        name: What it is called where an error or the header speaks of it.
        source: Who has named it.
        remedy: What to do where it holds the record of another session.
    """

    name: str
    source: str
    remedy: str

    def append(self, data: bytes, *, durable: bool = True) -> None:
        """Add an entry, which has no line break. Raises ``PlaceError``.

        When this returns it survives this process. With ``durable`` it survives the machine too, as far as the place
        does, and so does all that was added before.
        """
        ...

    def read(self) -> list[bytes]:
        """Return all entries. Raises ``PlaceError``."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class FilePlace:
    """A file with a line for each entry, written by one session at a time.

    The lock is one of this process: what a test has forked, and is still there after pytest, does not hold it.

    Args:
        path: The file; it is made if it is not there.
        source: Who names it.

    Raises:
        PlaceError: It cannot be opened, is something else, or another session writes it.
    """

    remedy: str = "remove it or name another file"

    def __init__(self, path: str, source: str = "--elastic-record") -> None:
        self.name, self.source = path, source
        self._descriptor = -1
        try:
            self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, _MODE)
        except OSError as error:
            raise self._error("cannot be opened", error) from error
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise PlaceError(f"{self.source}: {path} is no file; name another one")
        if found.st_uid != os.geteuid() and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PlaceError(f"{self.source}: {path} belongs to another user; name another file")
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise PlaceError(
                f"{self.source}: {path} is in use by another session; wait for its end or name another file"
            ) from None
        except OSError as error:
            raise self._error("cannot be locked", error) from error

    def append(self, data: bytes, *, durable: bool = True) -> None:
        """Add a line; with ``durable`` it is on the disk when this returns."""
        if b"\n" in data:
            raise ValueError("an entry is one line")
        try:
            rest = data + b"\n"
            if os.fstat(self._descriptor).st_size == 0:
                rest = _HEAD + rest
                self._keep_name()
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            if durable:
                os.fsync(self._descriptor)
        except OSError as error:
            raise self._error("cannot be written", error) from error

    def read(self) -> list[bytes]:
        """Return all lines; one that has no end, because its session was ended while it wrote, is taken away."""
        try:
            data = self._content()
            if not data.startswith(_HEAD) and not _HEAD.startswith(data):
                raise PlaceError(f"{self.source}: {self.name} is no record of a session; name another file")
            whole = data.rpartition(b"\n")[0] + b"\n" if data.startswith(_HEAD) else b""
            if len(whole) < len(data):
                os.ftruncate(self._descriptor, len(whole))
        except OSError as error:
            raise self._error("cannot be read", error) from error
        return whole.split(b"\n")[1:-1]

    def close(self) -> None:
        """Give up the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _content(self) -> bytes:
        parts, at = [], 0
        while part := os.pread(self._descriptor, 2**22, at):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def _keep_name(self) -> None:
        """Have the name of a new file survive its machine, too."""
        directory = os.open(os.path.dirname(self.name) or ".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _error(self, what: str, error: OSError) -> PlaceError:
        return PlaceError(f"{self.source}: {self.name} {what}: {error.strerror}; name another file")


class StorePlace:
    """Keys of a store of torch's: of the one that a launcher hosts, which outlives the sessions that it starts.

    Args:
        store: A client of it; its timeout is how long each access may take.
        prefix: What the keys of this run begin with.
        source: What the store is called in errors.
    """

    remedy: str = "give the launch another run id"

    def __init__(self, store: Store, prefix: str, source: str = "record") -> None:
        self.name, self.source = "the launcher's store", source
        self._store: Any = store
        self._prefix = f"{prefix}/record"

    def append(self, data: bytes, *, durable: bool = True) -> None:  # noqa: ARG002 (it outlives this machine or not)
        """Add an entry under the next number, in parts if it is large; the first of them is written last."""
        parts = [data[at : at + _PART] for at in range(0, len(data), _PART)] or [b""]
        try:
            number = self._store.add(self._prefix, 1)
            for index, part in list(enumerate(parts))[1:]:
                self._store.set(f"{self._prefix}/{number}/{index}", part)
            self._store.set(f"{self._prefix}/{number}", b"%d\n" % len(parts) + parts[0])
        except RuntimeError as error:
            raise self._error("written", error) from error

    def read(self) -> list[bytes]:
        """Return all entries but those that were not written to their end."""
        try:
            numbers = range(1, self._store.add(self._prefix, 0) + 1)
            return [self._entry(f"{self._prefix}/{n}") for n in numbers if self._store.check([f"{self._prefix}/{n}"])]
        except RuntimeError as error:
            raise self._error("read", error) from error

    def _entry(self, name: str) -> bytes:
        count, _, first = bytes(self._store.get(name)).partition(b"\n")
        if not count.isdigit() or len(count) > _DIGITS:
            return b""  # nobody of us wrote this, and an entry without a seal is told
        names = [f"{name}/{index}" for index in range(1, int(count))]
        if names and not self._store.check(names):
            return b""
        return first + b"".join(bytes(self._store.get(name)) for name in names)

    def close(self) -> None:
        """Drop the client."""
        self._store = None

    def _error(self, what: str, error: RuntimeError) -> PlaceError:
        line = str(error).partition("\n")[0]
        return PlaceError(f"{self.source}: {self.name} cannot be {what}: {line}")
