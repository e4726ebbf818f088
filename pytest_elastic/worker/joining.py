"""How every rank begins: it reports to the controller and waits for leave to start."""

from __future__ import annotations

import os

from pytest_elastic.channel import Outbox
from pytest_elastic.messages import RankHello, RankOrder
from pytest_elastic.worker.identity import Identity


def join(me: Identity, order: RankOrder) -> Outbox:
    """Report to the controller, and wait for its leave to start."""
    try:
        outbox = Outbox(order.channel, order.key)
        outbox.send(RankHello(id=me.id, pid=os.getpid()))
        outbox.receive()
    except (OSError, EOFError):
        os._exit(1)  # The launch is over, or never wanted this rank.
    return outbox
