"""A program that meets the others of its run, as a launcher starts it: one line of JSON says how that went.

With FAIL_ONCE, a path, rank 1 fails after the first time that it has met the first one, and makes the file.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from pytest_elastic import clock
from pytest_elastic.cluster.addresses import Address
from pytest_elastic.cluster.key import cluster_key
from pytest_elastic.cluster.meeting import listen, reach_first
from pytest_elastic.cluster.membership import find_membership

SECONDS = 90.0


def first(listener: socket.socket, session: str, others: int) -> None:
    listener.settimeout(SECONDS)
    while others:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(SECONDS)
            connection.sendall(session.ljust(40).encode())
            others -= connection.recv(1) == b"."


def greet(connection: socket.socket, address: Address) -> bool:
    """Tell whether this one is to fail now."""
    with connection:
        connection.settimeout(SECONDS)
        if connection.recv(40).decode().strip() != address.session:
            raise OSError("an older session")
        fails = "FAIL_ONCE" in os.environ and os.environ["RANK"] == "1" and not Path(os.environ["FAIL_ONCE"]).exists()
        connection.sendall(b"x" if fails else b".")
        return fails


def main() -> None:
    membership = find_membership(os.environ, {})
    assert membership is not None
    key = cluster_key(os.environ, {})
    deadline = clock.monotonic() + SECONDS
    fails = False
    if membership.rank == 0:
        listening = listen(membership, key, deadline)
        first(listening.socket, listening.address.session, membership.size - 1)
        listening.close()
    else:
        fails = reach_first(membership, key, deadline, greet)
    line = {
        "rank": membership.rank,
        "size": membership.size,
        "in_place": membership.in_place,
        "store": membership.store,
        "attempt": membership.attempt,
        "torch": "torch" in sys.modules,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    if fails:
        Path(os.environ["FAIL_ONCE"]).touch()
        sys.exit(3)


if __name__ == "__main__":
    main()
