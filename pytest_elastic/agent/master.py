"""What node 0 tells the others of a round: MASTER_ADDR, MASTER_PORT and the name of the world.

It goes through the store of the rendezvous, and any user of this machine can write to that. So it is signed with a key
of the run; and it is read strictly, since the port becomes an address and the name a directory.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import Final

from torch.distributed.elastic.rendezvous import RendezvousStateError

from pytest_elastic.loopback_store import LOOPBACK

_FORM: Final = re.compile(rb"([1-9][0-9]{0,4}) ([0-9a-f]{12}) ([0-9a-fA-F:.]{2,45}) ([0-9a-f]{64}|unsigned)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Master:
    """What the nodes of a round agree on.

    Attributes:
        port: MASTER_PORT.
        world: Name of the world: 12 hexadecimal digits.
        address: MASTER_ADDR: an IP address.
    """

    port: int
    world: str
    address: str = LOOPBACK

    def encode(self, key: bytes | None, run_id: str) -> bytes:
        """Return what is written to the store.

        Args:
            key: What all agents of the rendezvous know, and nobody else; ``None`` where others may take part.
            run_id: Name of the rendezvous.
        """
        text = f"{self.port} {self.world} {self.address}".encode()
        return text + b" " + _signature(text, key, run_id)


def decode_master(found: bytes, key: bytes | None, run_id: str) -> Master:
    """Read what :meth:`Master.encode` wrote, by the same key and name.

    Raises:
        RendezvousStateError: It was written by somebody else.
    """
    match = _FORM.fullmatch(found)
    if match is None or int(match[1]) >= 2**16:
        raise RendezvousStateError(f"MASTER_PORT of the rendezvous {_ALTERED}")
    text = b" ".join(match.group(1, 2, 3))
    if key is not None and not hmac.compare_digest(match[4], _signature(text, key, run_id)):
        raise RendezvousStateError(f"MASTER_PORT of the rendezvous {_ALTERED}")
    return Master(port=int(match[1]), world=match[2].decode(), address=match[3].decode())


_ALTERED: Final = (
    "was not written by an agent of this run: another program, or another user of this machine, has written to its "
    "store; it was not used"
)


def _signature(text: bytes, key: bytes | None, run_id: str) -> bytes:
    if key is None:
        return b"unsigned"
    # The key signs states of rendezvous too: what is signed here can be none of these, nor of another rendezvous.
    own = hmac.digest(key, b"pytest_elastic/master " + run_id.encode(), "sha256")
    return hmac.digest(own, text, "sha256").hex().encode()
