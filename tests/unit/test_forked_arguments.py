"""What a worker is handed, and how a rank looks for its master."""

from __future__ import annotations

import socket

from pytest_elastic.forking import _own_part
from pytest_elastic.worker.rendezvous import is_listening


def test_a_worker_gets_its_own_part_of_what_all_get() -> None:
    def work() -> None: ...

    shared = object()
    everything = (
        work,
        {0: (), 1: ()},
        {0: {"RANK": "0"}, 1: {"RANK": "1"}},
        {0: "queue 0", 1: "queue 1"},
        shared,
        None,
    )
    assert _own_part((work, 1, everything, "error file")) == (
        work,
        1,
        (work, {1: ()}, {1: {"RANK": "1"}}, {1: "queue 1"}, shared, None),
        "error file",
    )


def test_other_arguments_are_left_alone() -> None:
    for args in ((), (1, 2), (len, "x", ({0: 1},)), (len, 5, ({0: 1},)), (len, True, ({1: 1, 0: 2},))):
        assert _own_part(args) == args


def test_a_port_is_listened_on_only_by_who_listens() -> None:
    with socket.socket() as holder, socket.socket() as listener:
        for each in (holder, listener):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        port = holder.getsockname()[1]
        assert not is_listening(port)
        listener.bind(("", port))
        assert not is_listening(port)
        listener.listen()
        assert is_listening(port)
    assert not is_listening(port)
