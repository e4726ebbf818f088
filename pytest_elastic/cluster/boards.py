"""Where the first controller says where it listens: the store of the launcher, or a file of this machine.

Others can write to the store too. So what stands there is signed with a key of the session, and read strictly.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pytest_elastic import clock
from pytest_elastic.cluster import addresses
from pytest_elastic.cluster.addresses import Address
from pytest_elastic.cluster.key import derive
from pytest_elastic.cluster.member import Membership
from pytest_elastic.services.private_directories import machine_directory, make_private

if TYPE_CHECKING:
    from torch.distributed import TCPStore

T = TypeVar("T")
_FORM: Final = re.compile(rb"\[[\x20-\x7e]{1,600}\] [0-9a-f]{64}")
_LONGEST: Final = 1024
_OLD: Final = 7 * 86_400.0


class ForeignError(Exception):
    """What stands on the board was not written with the key of this session."""


class Board(Protocol):
    """Where the first says where it listens."""

    def write(self, text: bytes, until: float) -> None:
        """Say it in the place of what was said before."""

    def read(self, until: float) -> bytes | None:
        """Return what the first has said, or ``None`` if nothing."""

    def wipe(self) -> None:
        """Take away what was said, if that is possible and it is still there."""


def signed(address: Address, key: bytes, membership: Membership) -> bytes:
    """Return what the first writes."""
    text = json.dumps([address.host, address.port, address.session]).encode()
    return text + b" " + _signature(text, key, membership)


def verified(found: bytes, key: bytes, membership: Membership) -> Address:
    """Return the address that :func:`signed` has made a text of.

    Raises:
        ForeignError: Somebody else has made it, with another key or for another run.
    """
    text, _, signature = found.rpartition(b" ")
    genuine = _FORM.fullmatch(found) and hmac.compare_digest(signature, _signature(text, key, membership))
    if not genuine:
        raise ForeignError("what stands there was not written with the key that this process has")
    host, port, session = json.loads(text)
    return Address(host=host, port=port, session=session)


def _signature(text: bytes, key: bytes, membership: Membership) -> bytes:
    own = derive(key, f"meeting of {membership.launcher} {membership.run_id}")
    return hmac.digest(own, text, "sha256").hex().encode()


class StoreBoard:
    """The ``TCPStore`` of torchrun's agents.

    It outlives the processes that torchrun starts again, and each of these may be started again alone, without the
    others and without a count that they share. So there is one key for all: what the first wrote last holds, and who
    finds nobody there looks again.
    """

    def __init__(self, membership: Membership) -> None:
        assert membership.host is not None
        self._host, self._port = membership.host, membership.port
        self._key = f"pytest_elastic/first/{hashlib.sha256(membership.run_id.encode()).hexdigest()[:16]}"
        self._store: TCPStore | None = None

    def __str__(self) -> str:
        return f"torchrun's store at {Address(host=self._host, port=self._port)}"

    def write(self, text: bytes, until: float) -> None:
        """Say it in the place of what was said before."""
        self._ask(lambda store: store.set(self._key, text.decode(errors="replace")), until)

    def read(self, until: float) -> bytes | None:
        """Return what the first has said, or ``None`` if nothing."""
        return self._ask(lambda store: bytes(store.get(self._key)) if store.check([self._key]) else None, until)

    def wipe(self) -> None:
        """Leave it there: whoever is started again is to find that the session has ended, not to wait."""

    def _ask(self, question: Callable[[TCPStore], T], until: float) -> T:
        try:
            if self._store is None:
                self._store = connected_store(self._host, self._port, until)
            store = self._store
            return addresses.bounded(lambda: question(store), until, "no answer")
        except (RuntimeError, OSError) as error:
            self._store = None
            if isinstance(error, OSError):
                raise
            raise ConnectionError(addresses.reason(error)) from None


def connected_store(host: str, port: int, until: float) -> TCPStore:
    """Connect to a store of torch's.

    Args:
        host: Its host.
        port: Its port.
        until: When to give up, on :func:`pytest_elastic.clock.monotonic`.

    Raises:
        OSError: Nobody answers.
        RuntimeError: It is no store, or breaks.
    """
    # torch writes to stderr where nobody answers; so see first.
    addresses.connect(host, port, until).close()
    from torch.distributed import TCPStore

    left = timedelta(seconds=max(1.0, min(until - clock.monotonic(), clock.LONG)))
    # Its own limit does not hold for one that takes connections and says nothing.
    return addresses.bounded(
        lambda: TCPStore(host, port, None, False, left, wait_for_workers=False), until, "no answer"
    )


class FileBoard:
    """A file in a directory of this user alone, where all members are on one machine."""

    def __init__(self, membership: Membership) -> None:
        # A static rendezvous of torchrun's has no name; but no two have one store at the same time.
        names = (membership.launcher, membership.run_id, membership.host, membership.port)
        name = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:32]
        self._path = machine_directory("meetings") / name
        self._written: bytes | None = None

    def __str__(self) -> str:
        return str(self._path)

    def write(self, text: bytes, until: float) -> None:  # noqa: ARG002 (of the protocol)
        """Say it in the place of what was said before."""
        make_private(self._path.parent)
        self._sweep()
        fresh = self._path.with_name(f".{self._path.name}-{secrets.token_hex(8)}")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(text)
            fresh.replace(self._path)
        finally:
            fresh.unlink(missing_ok=True)
        self._written = text

    def read(self, until: float) -> bytes | None:  # noqa: ARG002
        """Return what the first has said, or ``None`` if nothing."""
        make_private(self._path.parent)
        try:
            with open(self._path, "rb") as file:
                return file.read(_LONGEST)
        except FileNotFoundError:
            return None

    def wipe(self) -> None:
        """Take away what was said, if it is still there."""
        with suppress(OSError):
            if self._written is not None and self._path.read_bytes() == self._written:
                self._path.unlink()

    def _sweep(self) -> None:
        """Remove what sessions have left that were killed."""
        for path in Path(self._path.parent).iterdir():
            with suppress(OSError):
                if path.lstat().st_mtime < time.time() - _OLD:
                    path.unlink()
