"""How the members of a session find the first one."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from typing import Final, NoReturn, TypeVar

from pytest_elastic import clock
from pytest_elastic.cluster import addresses
from pytest_elastic.cluster.addresses import Address
from pytest_elastic.cluster.boards import Board, FileBoard, ForeignError, StoreBoard, signed, verified
from pytest_elastic.cluster.key import VARIABLE
from pytest_elastic.cluster.member import Membership
from pytest_elastic.errors import ElasticError

T = TypeVar("T")
_LOOPBACK: Final = "127.0.0.1"
_PATIENCE: Final = 5.0
"""Seconds for which somebody else may be where the first is expected: one that is ending, of a run before this one."""
_SLOWEST: Final = 0.5


class MeetingError(ElasticError):
    """The members of a session have not found each other. It is one line."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """The place where the first controller waits for the others.

    Attributes:
        socket: A socket that listens, in blocking mode. Not everybody who connects is a member: that is to be proved.
        address: Where others reach it.
    """

    socket: socket.socket
    address: Address
    board: Board | None = field(repr=False)

    def close(self) -> None:
        """Listen no longer, and leave no file."""
        self.socket.close()
        if self.board is not None:
            self.board.wipe()


def listen(membership: Membership, key: bytes, deadline: float) -> Listening:
    """Listen for the other members, and say where, if they do not know it.

    Args:
        membership: This process, which is the first.
        key: The key of the session.
        deadline: When to give up, on :func:`pytest_elastic.clock.monotonic`.

    Raises:
        MeetingError: It cannot listen there, or not say where.
    """
    session = secrets.token_hex(16)
    patience = min(deadline, clock.monotonic() + _PATIENCE)
    board = _board(membership)
    if board is None:
        assert membership.host is not None
        address = Address(host=membership.host, port=membership.port)
        try:
            listener = addresses.listen_at(address.host, address.port, shared=membership.nodes > 1, until=patience)
        except OSError as error:
            raise MeetingError(
                f"elastic: {membership} cannot listen at {address}: {addresses.reason(error)}; expected a port of "
                "this host that nobody else uses: give another one by --elastic-rdzv-endpoint on every node"
            ) from None
        return Listening(socket=listener, address=address, board=None)
    started = clock.monotonic()
    try:
        listener, host = _listen_anywhere(membership, deadline)
    except OSError as error:
        _give_up(membership, f"reach {board}", started, addresses.reason(error))
    try:
        address = Address(host=host, port=listener.getsockname()[1], session=session)
        board.write(signed(address, key, membership), deadline)
    except OSError as error:
        listener.close()
        _give_up(membership, f"write to {board}", started, addresses.reason(error))
    except BaseException:
        listener.close()
        raise
    return Listening(socket=listener, address=address, board=board)


def find_first(membership: Membership, key: bytes, deadline: float) -> Address:
    """Wait until the first controller listens; whether it is the first is not proved.

    Args:
        membership: This process, which is another member.
        key: The key of the session.
        deadline: When to give up, on :func:`pytest_elastic.clock.monotonic`.

    Returns:
        Where something answers.

    Raises:
        MeetingError: It was not found.
    """

    def greet(connection: socket.socket, address: Address) -> Address:
        connection.close()
        return address

    return reach_first(membership, key, deadline, greet)


def reach_first(membership: Membership, key: bytes, deadline: float, greet: Callable[[socket.socket, Address], T]) -> T:
    """Connect to the first controller, and try again until it proves that it is the one.

    What is found may be old, from before the launcher started the first again. Then nobody answers there, or somebody
    who does not know the key or is about to leave.

    Args:
        membership: This process, which is another member.
        key: The key of the session.
        deadline: When to give up, on :func:`pytest_elastic.clock.monotonic`.
        greet: Gets a connection, in blocking mode, and where it leads to. It proves to both sides who the other is and
            returns what is to be returned; the connection is its own then. It raises ``OSError`` or ``EOFError`` if the
            connection breaks, and ``multiprocessing.AuthenticationError`` if the other one does not know the key.

    Returns:
        What ``greet`` returned.

    Raises:
        MeetingError: The first was not found, or does not know the key.
    """
    board = _board(membership)
    started = clock.monotonic()
    foreign_since: float | None = None
    pause, why = addresses.POLL, "it has not said it"
    where: Address | None = None
    while True:
        foreign = False
        try:
            address = _where(membership, board, key, deadline)
            if address is not None:
                where = address
                return _greeted(address, deadline, greet)
        except (ForeignError, AuthenticationError) as error:
            why = f"{error}: set {VARIABLE} to the same secret on every node"
            foreign = True
        except (OSError, EOFError) as error:
            why = addresses.reason(error)
        now = clock.monotonic()
        foreign_since = (foreign_since or now) if foreign else None
        late = foreign_since is not None and now - foreign_since > _PATIENCE
        if late or now + pause > deadline:
            what = (
                f"reach the first controller at {where}"
                if where is not None
                else f"learn from {board} where the first is"
            )
            _give_up(membership, what, started, why)
        addresses.pause(pause)
        pause = min(pause * 1.5, _SLOWEST)


def _where(membership: Membership, board: Board | None, key: bytes, deadline: float) -> Address | None:
    if board is None:
        assert membership.host is not None
        return Address(host=membership.host, port=membership.port)
    found = board.read(deadline)
    return None if found is None else verified(found, key, membership)


def _greeted(address: Address, deadline: float, greet: Callable[[socket.socket, Address], T]) -> T:
    connection = addresses.connect(address.host, address.port, deadline)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return greet(connection, address)
    except BaseException:
        with suppress(OSError):
            connection.close()
        raise


def _board(membership: Membership) -> Board | None:
    if membership.nodes == 1 and (membership.store or membership.host is None):
        return FileBoard(membership)  # without the seconds that it takes to import torch, for its store
    return StoreBoard(membership) if membership.store else None


def _listen_anywhere(membership: Membership, deadline: float) -> tuple[socket.socket, str]:
    """Listen on a free port at the address under which others reach this host."""
    if membership.nodes == 1 or membership.host is None:
        return addresses.listen_at(_LOOPBACK, 0, shared=False, until=deadline), _LOOPBACK
    probe = addresses.connect(membership.host, membership.port, deadline)
    with probe:
        own = probe.getsockname()[0]
    if addresses.is_loopback(own) and not addresses.says_loopback(membership.host):
        # The store is on this host, whose name stands for the loopback address here, and for another one elsewhere.
        return addresses.listen_everywhere(0, deadline), membership.host
    return addresses.listen_at(own, 0, shared=True, until=deadline), own


def _give_up(membership: Membership, what: str, started: float, why: str) -> NoReturn:
    seconds = clock.monotonic() - started
    raise MeetingError(f"elastic: {membership} could not {what} within {seconds:.0f} s: {why}") from None
