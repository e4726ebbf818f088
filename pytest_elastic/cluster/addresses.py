"""Addresses of hosts: looked up, connected to and listened at, each with an end to the wait."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pytest_elastic import clock

T = TypeVar("T")
POLL: Final = 0.1
_ONE_TRY: Final = 5.0
_BACKLOG: Final = 4096
_OTHER_HOST: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# Bound once, as the clock.
pause: Final = time.sleep


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where the first controller listens.

    Attributes:
        host: Name or address of the host, as others reach it.
        port: The port.
        session: What the first drew at random for its session; empty where nothing is known but host and port. Who gets
            another answer than this from there has found an older session.
    """

    host: str
    port: int
    session: str = ""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def reason(error: BaseException) -> str:
    """Return why something failed, in a few words."""
    if isinstance(error, socket.gaierror):
        return f"the name of the host is not known ({(error.strerror or str(error)).lower()})"
    if isinstance(error, BlockingIOError):  # of a socket whose waits are limited
        return "no answer"
    if isinstance(error, TimeoutError) and error.errno is None:
        return str(error) or "no answer"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return " ".join(str(error).split()) or type(error).__name__


def connect(host: str, port: int, until: float) -> socket.socket:
    """Connect to a host, with one try of each of its addresses.

    Raises:
        OSError: None of them answers, or it is late.
    """
    error: OSError = TimeoutError("no answer")
    for family, address in resolve(host, port, until):
        left = until - clock.monotonic()
        if left <= 0:
            break
        connection = socket.socket(family)
        try:
            connection.settimeout(min(left, _ONE_TRY))
            connection.connect(address)
        except OSError as failed:
            connection.close()
            error = failed
            continue
        connection.settimeout(None)
        return connection
    raise error


def resolve(host: str, port: int, until: float) -> list[tuple[int, Any]]:
    """Return families and addresses of a host; the system's own look-up may take a minute where DNS is silent.

    Raises:
        OSError: There are none, or the look-up is not done in time.
    """
    if is_literal(host):
        return _look_up(host, port, socket.AI_NUMERICHOST)

    def look_up() -> list[tuple[int, Any]]:
        try:
            return _look_up(host, port, 0)
        except UnicodeError:  # such as a label of more than 63 letters
            raise socket.gaierror(socket.EAI_NONAME, "no name of a host") from None

    return bounded(look_up, until, "the look-up of the host's name does not end")


def bounded(call: Callable[[], T], until: float, late: str) -> T:
    """Return what a call returns that may never end: it is left behind in a thread of its own then.

    Raises:
        TimeoutError: It is late.
        Exception: What the call raises.
    """
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(call())
        except Exception as error:  # noqa: BLE001 (raised below, in the thread that asked)
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="elastic-bounded")
    thread.start()
    thread.join(max(0.0, min(until - clock.monotonic(), clock.LONG)))
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(late)
    return done[0]


def _look_up(host: str, port: int, flags: int) -> list[tuple[int, Any]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


def is_literal(host: str) -> bool:
    """Tell whether a host is given by its address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's alone, whichever machine that is."""
    return is_literal(host) and ipaddress.ip_address(host).is_loopback


def says_loopback(host: str) -> bool:
    """Tell whether whoever names a host so means the machine itself, on each machine."""
    return host == "localhost" or is_loopback(host)


def listen_at(host: str, port: int, *, shared: bool, until: float) -> socket.socket:
    """Listen at an address of this host that is known by a name or address.

    That is on all interfaces only where no address of this host is found by the name: behind a translation of
    addresses, or where the name stands for the loopback address here, and is to be reached from other hosts.

    Args:
        host: The name or address.
        port: The port.
        shared: Other hosts connect to it.
        until: When to give up waiting for a port that is still taken.

    Raises:
        OSError: The port is taken, or not allowed, or nobody knows the name.
    """
    while True:
        try:
            found = resolve(host, port, until)
            break
        except socket.gaierror:  # the name of a pod is known a little after the pod has started
            if clock.monotonic() + POLL > until:
                raise
            pause(POLL)
    reached = [one for one in found if not (shared and is_loopback(one[1][0]) and not says_loopback(host))]
    for family, address in reached:
        try:
            return _listening(family, address, until)
        except OSError as error:
            if error.errno not in _OTHER_HOST:
                raise
    return listen_everywhere(port, until)


def listen_everywhere(port: int, until: float) -> socket.socket:
    """Listen on all interfaces.

    Raises:
        OSError: The port is taken, or not allowed.
    """
    if socket.has_dualstack_ipv6():
        return _listening(socket.AF_INET6, ("::", port), until)
    return _listening(socket.AF_INET, ("0.0.0.0", port), until)


def _listening(family: int, address: Any, until: float) -> socket.socket:
    while True:
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException as error:
            listener.close()
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if not taken or clock.monotonic() + POLL > until:
                raise
            pause(POLL)
        else:
            return listener
