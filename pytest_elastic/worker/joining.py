"""How every rank begins: it reports to the controller and waits for leave to start."""

from __future__ import annotations

import os
from typing import Final

from pytest_elastic import clock, kernel
from pytest_elastic.channel import Outbox
from pytest_elastic.messages import RankHello, RankOrder
from pytest_elastic.worker.identity import Identity

NAME: Final = "python rank "
"""How the name of a rank's process begins, and of those that it forks, once it was given leave to start."""


def join(me: Identity, order: RankOrder, *, writes_stacks: bool) -> Outbox:
    """Report to the controller, and wait for its leave to start.

    Args:
        me: Who this rank is.
        order: What it was told.
        writes_stacks: It writes its stacks when it is asked to.
    """
    clock.shift_by(order.clock_shift_ns)
    try:
        outbox = Outbox(order.channel, order.key)
        outbox.send(RankHello(id=me.id, pid=kernel.own_pid(), writes_stacks=writes_stacks))
        outbox.receive()
    except (OSError, EOFError):
        os._exit(1)  # The launch is over, or never wanted this rank.
    kernel.set_name(f"{NAME}{me.id.rank}")
    return outbox
