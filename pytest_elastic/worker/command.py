"""Runs a rank's command: reports to the controller, waits for leave, then becomes the command.

Run by its path with ``python -S``, with the command line behind it. What must survive is what ``exec`` keeps: the
request to die with the agent.
"""

from __future__ import annotations

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    """Become the command."""
    import pickle

    from pytest_elastic import kernel
    from pytest_elastic.messages import RankOrder
    from pytest_elastic.worker.identity import take_identity
    from pytest_elastic.worker.joining import join
    from pytest_elastic.worker.surroundings import apply_environment

    me = take_identity()
    kernel.die_with_parent(me.agent)
    order: RankOrder = pickle.loads(me.order.read_bytes())
    apply_environment(order, me)
    outbox = join(me, order, writes_stacks=False)
    command = sys.argv[1:]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        import time

        from pytest_elastic.worker.failure import describe

        outbox.send(describe(me.id, error, time_ns=time.monotonic_ns(), how="raised", skip=1))
        sys.exit(127)


if __name__ == "__main__":
    sys.path[0] = _ROOT
    main()
