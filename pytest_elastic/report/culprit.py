"""Which rank failed first.

torch's ``ChildFailedError`` holds one failure an agent and names the wrong rank in up to half of the cases: peers of a
dying rank fail too, and may be seen first. Each rank's own record and each exit code tell better:

1. ranks that died without a record, by any exit code or signal but the agent's and the controller's own, and SIGABRT;
2. records that are no loss of a peer, by the time at which the exception was caught;
3. SIGABRT without a record, and deaths without a record of ranks that had been told to end: gloo ends a process so when
   its peer is gone, and a handler of SIGTERM may end it anyhow, but where nobody says more, they know of no peer;
4. losses of a peer, by the time at which the exception was caught;
5. ranks that the agent or the controller ended.
"""

from __future__ import annotations

import re
import signal
from enum import IntEnum
from typing import Final

from pytest_elastic.report.records import RankRecord


class Blame(IntEnum):
    """The places of the list above."""

    DIED = 1
    OWN = 2
    DOUBTFUL = 3
    LOST_PEER = 4
    ENDED = 5


_PEER_LOSS_TYPES: Final = (
    "RuntimeError",
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "DistError",
)
_OUR_PEER_LOSSES: Final = ("RanksDivergedError", "PeerExampleError")
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

    So do ours of calls that ranks did not all make, and of examples that failed elsewhere, whatever their text.
    """
    name = type_name.rpartition(".")[2]
    return name in _OUR_PEER_LOSSES or (name in _PEER_LOSS_TYPES and _PEER_LOSS.search(message) is not None)


def has_failed(rank: RankRecord, *, silent_success: bool) -> bool:
    """Tell whether a rank failed: it has no outcome, or a bad one.

    Args:
        rank: The rank.
        silent_success: It ran a command, which tells nothing: exit code 0 is its outcome.
    """
    if rank.failed is not None:
        return True
    if rank.finished is not None:
        return died_late(rank)
    return not (silent_success and rank.exited is not None and rank.exited.exitcode == 0)


def died_late(rank: RankRecord) -> bool:
    """Tell whether a rank finished its work and then died on its way out: a crash at exit is a failure too."""
    if rank.finished is None or rank.exited is None or rank.exited.exitcode == 0:
        return False
    obeyed = rank.exited.stopped and rank.exited.exitcode > 0  # its own handler of SIGTERM chose the code
    return not obeyed and not ended_by_us(rank)


def ended_by_us(rank: RankRecord) -> bool:
    """Tell whether a rank that says nothing was ended by its agent or the controller."""
    if rank.failed is not None or rank.caught is not None:
        return False  # it failed on its own, and may have been stopped in its teardown
    if rank.was_stopped:
        return True  # it went on only because it was woken for its stacks
    if rank.exited is None:
        return True
    if rank.exited.exitcode == -signal.SIGKILL:
        return rank.killed or rank.exited.forced
    return rank.exited.stopped and rank.exited.exitcode in (-signal.SIGTERM, -signal.SIGINT)


def blame_of(rank: RankRecord) -> Blame:
    """Return the place of a failed rank in the order of blame."""
    if rank.failed is not None:
        return blame_for(rank.failed.type, rank.failed.message)
    if ended_by_us(rank):
        return Blame.ENDED
    if rank.exited is not None and (rank.exited.stopped or rank.exited.exitcode == -signal.SIGABRT):
        return Blame.DOUBTFUL
    return Blame.DIED


def blame_for(type_name: str, message: str) -> Blame:
    """Return the place of a record in the order of blame."""
    return Blame.LOST_PEER if is_peer_loss(type_name, message) else Blame.OWN


def is_collateral(rank: RankRecord, culprit: RankRecord | None) -> bool:
    """Tell whether a rank failed only because the culprit had, which is no rank where it is ``None``."""
    return rank is not culprit and blame_of(rank) > Blame.OWN


def blame(ranks: tuple[RankRecord, ...], *, silent_success: bool) -> list[RankRecord]:
    """Return the ranks that failed, the culprit first."""

    def key(rank: RankRecord) -> tuple[Blame, int]:
        exited = rank.exited.time_ns if rank.exited is not None else 0
        return blame_of(rank), rank.failed.time_ns if rank.failed is not None else exited

    return sorted((rank for rank in ranks if has_failed(rank, silent_success=silent_success)), key=key)
