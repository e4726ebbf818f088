"""How every rank begins: it reports to the controller and waits for leave to start."""

from __future__ import annotations

import os

from pytest_elastic.channel import Outbox
from pytest_elastic.messages import RankHello, RankOrder
from pytest_elastic.worker.identity import Identity


def join(me: Identity, order: RankOrder, *, writes_stacks: bool) -> Outbox:
    """Report to the controller, and wait for its leave to start.

    Args:
        me: Who this rank is.
        order: What it was told.
        writes_stacks: It writes its stacks when it is asked to.
    """
    try:
        outbox = Outbox(order.channel, order.key)
        outbox.send(RankHello(id=me.id, pid=os.getpid(), writes_stacks=writes_stacks))
        outbox.receive()
    except (OSError, EOFError):
        os._exit(1)  # The launch is over, or never wanted this rank.
    return outbox
