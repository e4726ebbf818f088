"""Which rank failed first.

torch's ``ChildFailedError`` holds one failure an agent and names the wrong rank in up to half of the cases: peers of a
dying rank fail too, and may be seen first. Each rank's own record and each exit code tell better:

1. ranks that died without a record, by any exit code or signal but the agent's and the controller's own, and SIGABRT;
2. records that are no loss of a peer, by the time at which the exception was caught;
3. losses of a peer, by that time;
4. SIGABRT without a record: gloo ends a process so when its peer is gone.
"""

from __future__ import annotations

import re
import signal
from typing import Final

from pytest_elastic.report.records import RankRecord

_PEER_LOSS_TYPES: Final = (
    "RuntimeError",
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "DistError",
)
_PEER_LOSS: Final = re.compile(
    r"""
      Connection\ closed\ by\ peer            # gloo
    | Connection\ reset\ by\ peer
    | Broken\ pipe
    | [Rr]emote\ (process|end)\ .*(exited|closed)
    | Socket\ closed
    | Connection\ was\ likely\ closed         # TCPStore
    | failed\ to\ recv,\ got\ 0\ bytes
    | recvValue(WithTimeout)?\ failed
    | Failed\ to\ recv
    | NCCL\ .*(remote|unhandled\ system)\ error
    | ncclRemoteError | ncclSystemError
    | The\ client\ socket\ has\ failed\ to\ connect
    | connectFullMesh\ failed                 # gloo, while groups are made
    """,
    re.VERBOSE,
)


def is_peer_loss(type_name: str, message: str) -> bool:
    """Tell whether an exception says that another rank is gone: gloo's, NCCL's and the store's connection errors.

    So does ours of calls that ranks did not all make, whatever its text.
    """
    name = type_name.rpartition(".")[2]
    return name == "RanksDivergedError" or (name in _PEER_LOSS_TYPES and _PEER_LOSS.search(message) is not None)


def has_failed(rank: RankRecord, *, command: bool) -> bool:
    """Tell whether a rank failed: it has no outcome, or a bad one. For a command the exit code is the outcome."""
    if rank.failed is not None:
        return True
    if rank.finished is not None:
        return died_late(rank)
    return not (command and rank.exited is not None and rank.exited.exitcode == 0)


def died_late(rank: RankRecord) -> bool:
    """Tell whether a rank finished its work and then died on its way out: a crash at exit is a failure too."""
    if rank.finished is None or rank.exited is None or rank.exited.exitcode == 0:
        return False
    return not ended_by_us(rank)


def ended_by_us(rank: RankRecord) -> bool:
    """Tell whether a rank that says nothing was ended by its agent or the controller."""
    if rank.failed is not None or rank.caught is not None:
        return False  # it failed on its own, and may have been stopped in its teardown
    if rank.exited is None:
        return True
    if rank.exited.exitcode == -signal.SIGKILL:
        return rank.killed or rank.exited.forced
    return rank.exited.stopped and rank.exited.exitcode in (-signal.SIGTERM, -signal.SIGINT)


def order_of_blame(rank: RankRecord) -> tuple[int, int]:
    """Return a key by which failed ranks sort, the culprit first."""
    if rank.failed is not None:
        loss = is_peer_loss(rank.failed.type, rank.failed.message)
        return (3 if loss else 2, rank.failed.time_ns)
    time_ns = rank.exited.time_ns if rank.exited is not None else 0
    if ended_by_us(rank):
        return (5, time_ns)
    if rank.exited is not None and rank.exited.exitcode == -signal.SIGABRT:
        return (4, time_ns)
    return (1, time_ns)


def is_collateral(rank: RankRecord, culprit: RankRecord) -> bool:
    """Tell whether a rank failed only because the culprit had."""
    if rank is culprit:
        return False
    return order_of_blame(rank)[0] >= 3


def blame(ranks: tuple[RankRecord, ...], *, command: bool) -> list[RankRecord]:
    """Return the ranks that failed, the culprit first."""
    return sorted((rank for rank in ranks if has_failed(rank, command=command)), key=order_of_blame)
