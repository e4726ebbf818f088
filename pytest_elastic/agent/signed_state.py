"""Rendezvous state that nobody else can write.

torch's agents unpickle the state of a ``c10d`` or ``etcd-v2`` rendezvous, and any user of this machine can connect to
its store. So where the store is ours the state is signed with a key of the run, and what is not is not unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters, RendezvousStateError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousBackend, Token, create_handler

BACKENDS: Final = ("c10d", "etcd-v2")
"""The backends whose state is a pickle."""
_SIZE: Final = hashlib.sha256().digest_size


class SignedState(RendezvousBackend):
    """A rendezvous backend whose state is signed.

    Args:
        inner: Where the state is kept.
        key: What all agents of the rendezvous know, and nobody else.
    """

    def __init__(self, inner: RendezvousBackend, key: bytes) -> None:
        self._inner = inner
        self._key = key

    @property
    def name(self) -> str:
        """Return the name of the backend."""
        return self._inner.name

    def get_state(self) -> tuple[bytes, Token] | None:
        """Read the state.

        Raises:
            RendezvousStateError: It was written by somebody who does not know the key.
        """
        found = self._inner.get_state()
        return None if found is None else (self._verified(found[0]), found[1])

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """Write the state, unless another agent has written a newer one; return what is there then.

        Raises:
            RendezvousStateError: That was written by somebody who does not know the key.
        """
        found = self._inner.set_state(self._signature(state) + state, token)
        return None if found is None else (self._verified(found[0]), *found[1:])

    def _signature(self, state: bytes) -> bytes:
        return hmac.digest(self._key, state, "sha256")

    def _verified(self, signed: bytes) -> bytes:
        signature, state = signed[:_SIZE], signed[_SIZE:]
        if not hmac.compare_digest(signature, self._signature(state)):
            raise RendezvousStateError(
                f"the state of the {self.name} rendezvous was not written by an agent of this run: another program, or "
                "another user of this machine, has written to its store; it was not read"
            )
        return state


def make_signed_handler(parameters: RendezvousParameters, key: bytes) -> RendezvousHandler:
    """Make the handler of one of :data:`BACKENDS` as torch does, with signed state."""
    if parameters.backend == "c10d":
        from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
    else:
        from torch.distributed.elastic.rendezvous.etcd_rendezvous_backend import (  # type: ignore[assignment]
            create_backend,
        )
    backend, store = create_backend(parameters)
    return create_handler(store, SignedState(backend, key), parameters)
